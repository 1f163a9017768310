package natsbroker

import (
	"flag"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// TestMain lets two more tests run at the same time than there are processors: most of the
// parallel tests wait for elections. A -parallel on the command line stays as it is.
func TestMain(m *testing.M) {
	flag.Parse()
	if n := runtime.GOMAXPROCS(0); flag.Lookup("test.parallel").Value.String() == strconv.Itoa(n) {
		flag.Set("test.parallel", strconv.Itoa(n+2))
	}
	os.Exit(m.Run())
}
