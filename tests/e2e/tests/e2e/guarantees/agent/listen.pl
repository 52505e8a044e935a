# Answers connections on all addresses at PORT until its input ends.
use strict;
use warnings;
use Socket;

socket my $listener, AF_INET, SOCK_STREAM, 0 or die "socket: $!";
setsockopt $listener, SOL_SOCKET, SO_REUSEADDR, 1;
bind $listener, pack_sockaddr_in($ARGV[0], INADDR_ANY) or die "bind: $!";
listen $listener, 8 or die "listen: $!";
$| = 1;
print "listening\n";
while (accept my $socket, $listener) { syswrite $socket, "planted\r\n" }
