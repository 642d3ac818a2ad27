# The exit code 4, done but some images could not be scored, is no reason for a RayJob to try again on a new cluster.
differnet-ray score --config /etc/differnet/score.toml || { code=$?; [ "$code" -eq 4 ] || exit "$code"; }
