# 32 concurrent writers for 4 places: 4 succeed, 28 are refused, and the count stays correct.
# needs: emulated (two CPUs that race)
for _ in 1 2 3; do
	assert_eq '28 Input/output error
4 OK' 'for n in $(seq 32); do try_write $(type_path $T4A nvidia-232)/create $(uuid $n) & done | sort | uniq -c | sed "s/^ *//"'
	assert_eq '0 4' 'echo $(available $T4A nvidia-232) $(mdevs | wc -l)'
	# Half of the removals race with creations on the same board.
	on_lab 'for m in $(mdevs); do remove_mdev $m & done
		for n in $(seq 41 44); do try_write $(type_path $T4A nvidia-232)/create $(uuid $n) & done; wait'
	assert 'test $(($(available $T4A nvidia-232) + $(mdevs | wc -l))) -eq 4'
	on_lab 'for m in $(mdevs); do remove_mdev $m; done'
	assert_eq '4' 'available $T4A nvidia-232'
done
