# Looks for secrets wherever this user can read: the memory, environment, arguments and open files of every process,
# and every file there is. Standard input holds `NAME HEX` lines: values in an argument would find themselves.
# Says `NAME in PLACE`, and at the end how much was read.
use strict;
use warnings;
no warnings 'portable'; # addresses have 64 bits
use Fcntl qw(:mode);
use File::Find;

my (%pattern, $longest, %said);
while (my $line = <STDIN>) {
    my ($name, $hex) = split ' ', $line;
    my $value = pack 'H*', $hex;
    $pattern{$name} = qr/\Q$value\E/;
    $longest = length $value if length $value > ($longest // 0);
}
my ($processes, $files, $memory) = (0, 0, 0);

sub look {
    my ($bytes, $place) = @_;
    for my $name (sort keys %pattern) {
        print "$name in $place\n" if $$bytes =~ $pattern{$name} and not $said{"$name $place"}++;
    }
}

# In pieces that overlap, so that nothing hides between two.
sub read_all {
    my ($handle, $place, $most) = @_;
    my ($kept, $total) = ('', 0);
    while (not defined $most or $total < $most) {
        my $piece = 1 << 20;
        $piece = $most - $total if defined $most and $most - $total < $piece;
        my $count = sysread $handle, my ($bytes), $piece;
        last unless $count;
        $total += $count;
        my $both = $kept . $bytes;
        look(\$both, $place);
        $kept = length $both > $longest ? substr $both, -$longest : $both;
    }
    return $total;
}

for my $pid (grep { /^\d+$/ and $_ != $$ } map { s{^/proc/}{}r } glob '/proc/[0-9]*') {
    $processes++;
    for my $name (qw(environ cmdline status stat comm)) {
        open my $file, '<:raw', "/proc/$pid/$name" or next;
        read_all($file, "/proc/$pid/$name");
    }
    for my $open (glob "/proc/$pid/fd/*") {
        my $mode = (stat $open)[2] // next;
        next unless S_ISREG($mode);
        open my $file, "<:raw", $open or next;
        read_all($file, $open, 64 << 20);
    }
    open my $maps, '<', "/proc/$pid/maps" or next;
    open my $mem, '<:raw', "/proc/$pid/mem" or next;
    while (my $line = <$maps>) {
        my ($from, $to) = $line =~ /^([0-9a-f]+)-([0-9a-f]+) r/ or next;
        next if $line =~ /\[v/;
        my ($start, $end) = (hex $from, hex $to);
        sysseek $mem, $start, 0 or next;
        $memory += read_all($mem, "/proc/$pid/mem", $end - $start);
    }
}

# /proc is done; what is under /sys is the kernel's.
find(
    {
        no_chdir => 1,
        preprocess => sub { $File::Find::dir eq '/' ? grep { !/^(proc|sys)$/ } @_ : @_ },
        wanted => sub {
            return unless S_ISREG((lstat $_)[2] // 0);
            open my $file, '<:raw', $_ or return;
            $files++;
            read_all($file, $_);
        },
    },
    '/'
);
print "read $processes processes, $memory bytes of memory, $files files\n";
