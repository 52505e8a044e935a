# Tries to get a packet to ADDRESS past the proxy, each way to a port of its own, from PORT up: who counts what arrives
# knows which way was open. Says `WAY OUTCOME` in the order of the ports.
#   out.pl ADDRESS PORT LINK-LOCAL-ADDRESS INTERFACE
use strict;
use warnings;
use Errno;
use Socket qw(:DEFAULT IPPROTO_TCP IPPROTO_UDP IPPROTO_IP inet_pton pack_sockaddr_in6 AF_INET6);
use constant {
    BINDTODEVICE => 25, MULTICAST_IF => 32, IPV6_MULTICAST_IF => 17, IPPROTO_IPV6 => 41,
    MPTCP => 262, SCTP => 132, DCCP => 33, UDPLITE => 136, FASTOPEN => 0x20000000, MORE => 0x8000,
};

my ($address, $port, $link_local, $interface) = @ARGV;
socket my $any, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
my $asked = pack 'a16 x24', $interface;
ioctl $any, 0x8933, $asked or die "there is no $interface: $!"; # SIOCGIFINDEX
my $index = unpack 'x16 L', $asked;

sub errno { (grep { $!{$_} } keys %!)[0] // 'nothing' }
sub four { pack_sockaddr_in($_[0], inet_aton($_[1] // $address)) }
sub six { pack_sockaddr_in6($_[0], inet_pton(AF_INET6, $_[1]), $index) }

# Non-blocking: a connection that nobody answers is known by what arrived.
sub stream {
    my ($family, $protocol, $to, $device) = @_;
    socket my $socket, $family, SOCK_STREAM | 0x800, $protocol or return 'socket ' . errno();
    if (defined $device) { setsockopt $socket, SOL_SOCKET, BINDTODEVICE, $device or return 'device ' . errno() }
    return 'connected' if connect $socket, $to or $!{EINPROGRESS};
    return errno();
}

sub datagram {
    my ($family, $protocol, $to, %more) = @_;
    socket my $socket, $family, SOCK_DGRAM, $protocol or return 'socket ' . errno();
    for my $option (@{ $more{options} // [] }) {
        setsockopt $socket, $option->[0], $option->[1], $option->[2] or return 'option ' . errno();
    }
    # Twice: an answer to the first would be the second's error.
    for (1, 2) { defined send $socket, $more{text} // 'stolen', $more{flags} // 0, $to or return errno() }
    return 'sent';
}

sub device { [SOL_SOCKET, BINDTODEVICE, $_[0]] }
sub index_of { pack 'I', $index }

my @ways = (
    tcp => sub { stream(AF_INET, IPPROTO_TCP, four($_[0])) },
    tcp_mapped => sub { stream(AF_INET6, IPPROTO_TCP, six($_[0], "::ffff:$address")) },
    tcp_of_device => sub { stream(AF_INET, IPPROTO_TCP, four($_[0]), $interface) },
    tcp_by_loopback => sub { stream(AF_INET, IPPROTO_TCP, four($_[0]), 'lo') },
    tcp_to_loopback => sub { stream(AF_INET, IPPROTO_TCP, four($_[0], '127.9.9.9'), $interface) },
    tcp_fast_open => sub {
        socket my $socket, AF_INET, SOCK_STREAM | 0x800, IPPROTO_TCP or return errno();
        defined send($socket, 'stolen', FASTOPEN, four($_[0])) || $!{EINPROGRESS} ? 'sent' : errno();
    },
    mptcp => sub { stream(AF_INET, MPTCP, four($_[0])) },
    tcp6 => sub { stream(AF_INET6, IPPROTO_TCP, six($_[0], $link_local)) },
    mptcp6 => sub { stream(AF_INET6, MPTCP, six($_[0], $link_local)) },
    sctp => sub { stream(AF_INET, SCTP, four($_[0])) },
    udp => sub { datagram(AF_INET, IPPROTO_UDP, four($_[0])) },
    udp_mapped => sub { datagram(AF_INET6, IPPROTO_UDP, six($_[0], "::ffff:$address")) },
    udp_of_device => sub { datagram(AF_INET, IPPROTO_UDP, four($_[0]), options => [device($interface)]) },
    udp_by_loopback => sub { datagram(AF_INET, IPPROTO_UDP, four($_[0]), options => [device('lo')]) },
    udp_to_loopback =>
      sub { datagram(AF_INET, IPPROTO_UDP, four($_[0], '127.9.9.9'), options => [device($interface)]) },
    udp_corked => sub { datagram(AF_INET, IPPROTO_UDP, four($_[0]), flags => MORE) },
    udp_broadcast => sub {
        datagram(AF_INET, IPPROTO_UDP, four($_[0], '255.255.255.255'),
            options => [[SOL_SOCKET, SO_BROADCAST, 1], device($interface)]);
    },
    udp_multicast => sub {
        my $of = pack 'x4x4I', $index;
        datagram(AF_INET, IPPROTO_UDP, four($_[0], '224.0.0.1'), options => [[IPPROTO_IP, MULTICAST_IF, $of]]);
    },
    udp6 => sub { datagram(AF_INET6, IPPROTO_UDP, six($_[0], $link_local)) },
    udp6_multicast => sub {
        datagram(AF_INET6, IPPROTO_UDP, six($_[0], 'ff02::1'), options => [[IPPROTO_IPV6, IPV6_MULTICAST_IF, index_of()]]);
    },
    # Echo requests: the kernel fills in the rest.
    icmp => sub { datagram(AF_INET, 1, four(0), text => pack 'C8', 8) },
    icmp6 => sub { datagram(AF_INET6, 58, six(0, $link_local), text => pack 'C8', 128) },
    udplite => sub { datagram(AF_INET, UDPLITE, four($_[0])) },
);

while (my ($name, $try) = splice @ways, 0, 2) {
    print "$name ", $try->($port++), "\n";
}
