# Which kinds of sockets this user can make at all, beside those of `out.pl`. Says `FAMILY TYPE PROTOCOL` of each.
use strict;
use warnings;

for my $family (1 .. 46) {
    for my $type (1 .. 6, 10) {
        for my $protocol (0, 1, 2, 6, 17, 33, 41, 47, 58, 132, 136, 255, 262) {
            print "$family $type $protocol\n" if socket my ($socket), $family, $type, $protocol;
        }
    }
}
