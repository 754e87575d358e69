# The first vGPU on a board decides: only types of its frame buffer size stay, of any series, and each vGPU
# counts against all of them. When the last one is removed, all types come back.
counts='for t in nvidia-222 nvidia-231 nvidia-232 nvidia-319 nvidia-233 nvidia-234; do available $T4A $t; done | paste -sd" "'
assert_eq '16 8 4 4 2 1' "$counts"
on_lab 'create_mdev $T4A nvidia-232 $(uuid 1)'
assert_eq '0 0 3 3 0 0' "$counts"
on_lab 'create_mdev $T4A nvidia-319 $(uuid 2)'
assert_eq '0 0 2 2 0 0' "$counts"
# The other boards have their own count.
assert_eq '4 16' 'echo $(available $T4B nvidia-232) $(available $T4C nvidia-230)'
on_lab 'remove_mdev $(uuid 1)'
assert_eq '0 0 3 3 0 0' "$counts"
on_lab 'remove_mdev $(uuid 2)'
assert_eq '16 8 4 4 2 1' "$counts"
on_lab 'create_mdev $T4A nvidia-234 $(uuid 1)'
assert_eq '0 0 0 0 0 0' "$counts"
