# Tries to take the proxy's ports. Says `ADDRESS PORT OUTCOME`.
use strict;
use warnings;
use Errno;
use Socket qw(:DEFAULT SO_REUSEPORT inet_pton pack_sockaddr_in6 AF_INET6 IPPROTO_IPV6 IPV6_V6ONLY);

sub errno { (grep { $!{$_} } keys %!)[0] // 'nothing' }

for my $port (14322, 14323) {
    for my $address ('127.0.0.1', '0.0.0.0', '::') {
        my $six = $address eq '::';
        socket my $socket, $six ? AF_INET6 : AF_INET, SOCK_STREAM, 0 or die "socket: $!";
        setsockopt $socket, SOL_SOCKET, SO_REUSEADDR, 1;
        setsockopt $socket, SOL_SOCKET, SO_REUSEPORT, 1;
        setsockopt $socket, IPPROTO_IPV6, IPV6_V6ONLY, 0 if $six;
        my $to = $six ? pack_sockaddr_in6($port, inet_pton(AF_INET6, $address)) : pack_sockaddr_in($port, inet_aton($address));
        my $done = bind($socket, $to) && listen($socket, 1);
        print "$address $port ", $done ? 'taken' : errno(), "\n";
    }
}
