# What answers within the pod: abstract sockets, sockets at the paths given, and every port. The network is
# shared with the sidecar.
use strict;
use warnings;
use Socket;

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

# What listens, as the kernel lists it for the whole network: addresses are words of the machine's order.
my @listening;
for my $file ('tcp', 'tcp6') {
    open my $table, '<', "/proc/net/$file" or next;
    while (my $line = <$table>) {
        my ($address, $port) = $line =~ /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ 0A / or next;
        $address = join '.', reverse map { hex } $address =~ /../g if length $address == 8;
        push @listening, "$address " . hex($port) . "\n";
    }
}
print sort @listening;
