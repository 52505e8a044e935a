# Asks places that are no business of an agent's, past the proxy, by TCP. Says `PLACE refused`, or what it got. Where
# the connection is redirected, the sidecar answers 403 or hangs up.
use strict;
use warnings;
use Socket;

my @places = (
    ['the API server' => '10.96.0.1', 443], ['the API server of the node' => '10.99.0.1', 6443],
    ['the kubelet' => '10.99.0.1', 10250], ['the forge' => '10.99.0.1', 3000], ['the database' => '10.99.0.1', 5432],
    ['DNS' => '10.96.0.10', 53], ['metadata' => '169.254.169.254', 80], ['beyond' => '192.0.2.1', 443],
    ['DNS over TLS beyond' => '192.0.2.1', 853], ['ssh beyond' => '192.0.2.1', 22],
);
for my $place (@places) {
    my ($name, $address, $port) = @$place;
    socket my $socket, AF_INET, SOCK_STREAM, 0 or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_RCVTIMEO, pack 'q2', 3, 0;
    my $answer = '';
    if (connect $socket, pack_sockaddr_in($port, inet_aton($address))) {
        syswrite $socket, "GET /version HTTP/1.1\r\nHost: $address\r\n\r\n";
        sysread $socket, $answer, 4096;
    }
    my ($first) = split /\r\n/, $answer // '';
    $first = 'refused' if not $first or $first =~ m{^HTTP/1\.1 403 };
    print "$name $first\n";
}
