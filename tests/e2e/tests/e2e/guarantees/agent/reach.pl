# Asks ADDRESS at each PORT whether a proxy of Berth's is there. Says `PORT OUTCOME`.
#   reach.pl ADDRESS PORT…
use strict;
use warnings;
use Errno;
use Socket;

my ($address, @ports) = @ARGV;
for my $port (@ports) {
    socket my $socket, AF_INET, SOCK_STREAM, 0 or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, $_, pack 'q2', 1, 0 for SO_RCVTIMEO, SO_SNDTIMEO;
    unless (connect $socket, pack_sockaddr_in($port, inet_aton($address))) {
        print "$port ", (grep { $!{$_} } keys %!)[0], "\n";
        next;
    }
    syswrite $socket, "GET /healthz HTTP/1.1\r\nHost: $address\r\n\r\n";
    my $count = sysread $socket, my ($answer), 4096;
    print "$port ", $count ? (split /\r\n/, $answer)[0] : 'closed', "\n";
}
