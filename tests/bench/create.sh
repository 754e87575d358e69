#!/bin/sh
# A hook in shell that leaves the work to mdevctl. usage: create.sh UUID PARENT TYPE
cat > /dev/null
exec mdevctl start --uuid "$1" --parent "$2" --type "$3"
