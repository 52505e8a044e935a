# Tries to change the fence and what it stands on. Says `WHAT OUTCOME`. TABLE is deleted if it can be.
#   fence.pl TABLE
use strict;
use warnings;
use Errno;
use Socket;
use constant { NETLINK => 16, ROUTE => 0, NETFILTER => 12, REQUEST_ACK => 5 };

sub errno { (grep { $!{$_} } keys %!)[0] // 'nothing' }
sub attribute { my ($type, $data) = @_; my $at = pack('S2', 4 + length $data, $type) . $data; $at . "\0" x (-length($at) % 4) }
sub message { my ($type, $flags, $body) = @_; pack('L S2 L L', 16 + length $body, $type, $flags, 1, 0) . $body }

# The first error that the kernel answers with.
sub ask {
    my ($what, $protocol, @messages) = @_;
    socket my $socket, NETLINK, SOCK_RAW, $protocol or return print "$what socket ", errno(), "\n";
    defined send $socket, join('', @messages), 0, pack('S x2 L L', NETLINK, 0, 0) or return print "$what ", errno(), "\n";
    recv $socket, my $answer, 8192, 0;
    my ($length, $type, $flags, $sequence, $port, $error) = unpack 'L S2 L L l', $answer;
    local $! = -($error // 0);
    print "$what ", $type == 2 && $error ? errno() : 'done', "\n";
}

my $table = $ARGV[0];
my $begin = message(16, 1, pack 'C2 n', 0, 0, 10);
my $end = message(17, 1, pack 'C2 n', 0, 0, 10);
my $inet = pack 'C2 n', 1, 0, 0;
# NFT_MSG_DELTABLE with its name; the same for every table; NFT_MSG_GETTABLE.
ask('delete table', NETFILTER, $begin, message(10 << 8 | 2, REQUEST_ACK, $inet . attribute(1, "$table\0")), $end);
ask('delete all tables', NETFILTER, $begin, message(10 << 8 | 2, REQUEST_ACK, pack 'C2 n', 0, 0, 0), $end) if $table eq 'berth';
ask('read tables', NETFILTER, message(10 << 8 | 1, 0x305, $inet));
# IPCTNL_MSG_CT_DELETE of every connection; a link that goes down; a route that goes.
ask('flush connections', NETFILTER, message(1 << 8 | 2, REQUEST_ACK, pack 'C2 n', 2, 0, 0)) if $table eq 'berth';
ask('take a link down', ROUTE, message(16, REQUEST_ACK, pack 'C x S l L L', 0, 0, 2, 0, 1)) if $table eq 'berth';
ask('delete a route', ROUTE, message(25, REQUEST_ACK, pack 'C8 L', 2, 0, 0, 0, 254, 0, 0, 0, 0)) if $table eq 'berth';

# Legacy iptables: IPT_SO_SET_REPLACE on a raw socket, which it doesn't get, and on one that it does.
socket my $raw, AF_INET, SOCK_RAW, 255 or print 'raw socket ', errno(), "\n";
socket my $udp, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
print 'replace rules ', setsockopt($udp, 0, 64, "\0" x 128) ? 'done' : errno(), "\n";

for my $key (qw(ip_unprivileged_port_start ip_forward ping_group_range)) {
    my $done = open my $file, '+<', "/proc/sys/net/ipv4/$key";
    print "write $key ", $done ? 'done' : errno(), "\n";
}
