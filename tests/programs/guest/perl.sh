# Perl's own test files, laid out as in its source, run by the installed perl.
units() {
    cd /suite/perl || exit
    ls t/base/*.t t/cmd/*.t t/comp/*.t t/opbasic/*.t t/op/*.t t/re/*.t t/uni/*.t t/io/*.t t/mro/*.t lib/*.t
    for module in ext/POSIX ext/Hash-Util ext/List-Util ext/Fcntl ext/IPC-Open3 ext/PerlIO-scalar cpan/Digest-MD5 cpan/Digest-SHA cpan/MIME-Base64 \
        cpan/Math-BigInt cpan/Math-BigInt-FastCalc cpan/Math-BigRat cpan/Math-Complex cpan/Scalar-List-Utils cpan/Compress-Raw-Zlib \
        cpan/Compress-Raw-Bzip2 cpan/Time-Local cpan/Time-Piece cpan/version cpan/Encode dist/Storable dist/Data-Dumper dist/threads \
        dist/threads-shared dist/Thread-Queue dist/Time-HiRes dist/Unicode-Normalize dist/PathTools; do
        ls "$module"/t/*.t 2> /dev/null
    done
}
# Tests under t/ and lib/ find their helpers from t/, those of a module from its folder.
unit() {
    export PERL_CORE=1 PERL_HASH_SEED=0
    case $1 in
    t/*) cd /suite/perl/t && exec perl "${1#t/}" ;;
    lib/*) cd /suite/perl/t && exec perl "../$1" ;;
    *) unset PERL_CORE; cd "/suite/perl/${1%/t/*}" && exec perl -I/suite/perl/t/lib "t/${1##*/}" ;;
    esac
}
