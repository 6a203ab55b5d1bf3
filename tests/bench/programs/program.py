"""What scripts do: dictionaries, strings, calls, sorting. usage: program.py ROUNDS"""
import sys


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None


def insert(root, key):
    while True:
        side = "left" if key < root.key else "right"
        child = getattr(root, side)
        if child is None:
            setattr(root, side, Node(key))
            return
        root = child


def depth(node):
    return 0 if node is None else 1 + max(depth(node.left), depth(node.right))


def main(rounds):
    value, total = 12345, 0
    for _ in range(rounds):
        words = {}
        for _ in range(4000):
            value = (value * 1103515245 + 12345) % 2**31
            word = "w%d" % (value >> 20)
            words[word] = words.get(word, 0) + 1
        ordered = sorted(words.items(), key=lambda item: (-item[1], item[0]))
        total += len(",".join(word for word, _ in ordered)) + ordered[0][1]
        root = Node(value)
        for _ in range(1000):
            value = (value * 1103515245 + 12345) % 2**31
            insert(root, value)
        total += depth(root)
    print(total)


main(int(sys.argv[1]))
