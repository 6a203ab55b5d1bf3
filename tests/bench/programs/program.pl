# What scripts do: hashes, regular expressions, sorting, string building. usage: program.pl ROUNDS
use strict;
use warnings;

my ($rounds) = @ARGV;
my ($value, $total) = (12345, 0);
for (1 .. $rounds) {
    my %words;
    my $text = '';
    for (1 .. 4000) {
        $value = ($value * 1103515245 + 12345) % 2147483648;
        $text .= sprintf('w%d-%x ', $value >> 20, $value & 255);
    }
    while ($text =~ /(\w+)-([0-9a-f]+)\b/g) {
        $words{$1} += hex($2);
    }
    my @ordered = sort { $words{$b} <=> $words{$a} || $a cmp $b } keys %words;
    $text =~ s/w(\d)(\d+)/$2$1/g;
    $total += length(join(',', @ordered)) + $words{$ordered[0]} + ($text =~ tr/1//);
}
print "$total\n";
