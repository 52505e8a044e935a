# What answers within the pod: abstract sockets, sockets at the paths given, and the ports of loopback. The network is
# shared with the sidecar.
use strict;
use warnings;
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 AF_INET6);

my $own = "\0planted-" . $$;
socket my $planted, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
bind $planted, pack_sockaddr_un($own) or die "bind: $!";
listen $planted, 1 or die "listen: $!";
open my $unix, '<', '/proc/net/unix' or die "/proc/net/unix: $!";
for my $line (<$unix>) {
    my ($name) = $line =~ /(@.*)$/ or next;
    (my $path = $name) =~ s/@/\0/;
    socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
    my $outcome = connect($socket, pack_sockaddr_un($path)) ? 'answers' : 'refuses';
    $name =~ s/\d+$//;
    print "abstract $name $outcome\n";
}

for my $path (@ARGV) {
    socket my $socket, AF_UNIX, SOCK_STREAM, 0 or die "socket: $!";
    setsockopt $socket, SOL_SOCKET, SO_RCVTIMEO, pack 'q2', 5, 0;
    my $connected = connect $socket, pack_sockaddr_un($path);
    my $count = sysread $socket, my ($bytes), 4096;
    print "$path ", !$connected ? 'refuses' : $count ? 'speaks' : defined $count ? 'is closed' : 'is silent', "\n";
}

# A socket that is given the very port that it calls connects to itself.
sub say_open { my ($place, $socket) = @_; print "$place\n" if getsockname($socket) ne getpeername($socket) }

for my $port (1 .. 65535) {
    socket my $four, AF_INET, SOCK_STREAM, 0 or die "socket: $!";
    say_open("127.0.0.1 $port", $four) if connect $four, pack_sockaddr_in($port, inet_aton("127.0.0.1"));
    socket my $six, AF_INET6, SOCK_STREAM, 0 or next;
    say_open("::1 $port", $six) if connect $six, pack_sockaddr_in6($port, inet_pton(AF_INET6, '::1'));
}
