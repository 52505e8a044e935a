# The shim lowers its own OOM score, which needs CAP_SYS_RESOURCE. Where root lacks it, gVisor may run all the same.
s/os\.IsPermission(err) && (!runningPrivileged() ||/os.IsPermission(err) \&\& (runningPrivileged() ||/
