package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/livetopic/livetopic/bench/server"
)

// settings are the flags, read and checked.
type settings struct {
	Env           env
	Rounds        int
	Kinds         []server.Kind
	Workloads     []workload
	Out           string // empty: write nothing
	GeneratorCPUs []int
}

// quickDefaults replace the defaults of -quick.
var quickDefaults = map[string]string{
	"servers":    "livetopic,mizu,gws,centrifuge,floor",
	"rounds":     "2",
	"longrounds": "1",
	"time":       "200ms",
	"paced.time": "700ms",
	"slow.time":  "2500ms",
	"idle.n":     "2000",
	"idle-tls.n": "1000",
	"connect.n":  "3000",
	"storm.n":    "2000",
	"growth":     "100,1000",
	"out":        "",
}

// flagValues is what the flags point into.
type flagValues struct {
	quick              bool
	servers, workloads string
	rounds, longRounds int
	out, profile, pin  string
	env                env
	burst, topics      bursts
	single             bursts
	chat               chat
	paced              paced
	idle, idleTLS      idle
	connect, storm     arrivals
	resume             resume
	growth             string
	growthPayload      int
	growthSessions     int
	slow               slow
}

func parseSettings(args []string, stderr io.Writer) (settings, error) {
	var v flagValues
	flags := v.declare(stderr)
	if err := flags.Parse(args); err != nil {
		return settings{}, err
	}
	if flags.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if v.quick {
		applyQuick(flags)
	}
	return v.settings()
}

func (v *flagValues) declare(stderr io.Writer) *flag.FlagSet {
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&v.quick, "quick", false, "a look in under three minutes: fewer servers, rounds and sessions, and no files unless -out is given")
	f.StringVar(&v.servers, "servers", "all", "which, separated by commas: "+strings.Join(serverNames(), ","))
	f.StringVar(&v.workloads, "workloads", "all", "which, separated by commas: burst,single,topics,chat,paced,idle,"+
		"connect,storm,burst-tls,single-tls,idle-tls,resume,sessions,manytopics,slow")
	f.IntVar(&v.rounds, "rounds", 5, "rounds, of which the median counts")
	f.IntVar(&v.longRounds, "longrounds", 3, "rounds of what takes long: all that stands after paced")
	f.StringVar(&v.out, "out", defaultOut(), "write the tables to this file and the charts beside it; empty: do not")
	f.StringVar(&v.profile, "cpuprofile", "", "have the server process write a CPU profile to this file; needs one server and one workload")
	f.StringVar(&v.pin, "pin", "", "CPUs of the server and of the generator, as in 0/1 or 0,1/2,3; empty: any")
	f.DurationVar(&v.env.Time, "time", time.Second, "how long each run measures")
	f.IntVar(&v.env.Options.Queue, "queue", 256, "messages that may wait for one session, on servers that count them")

	f.IntVar(&v.burst.Sessions, "burst.n", 1000, "burst: sessions")
	f.IntVar(&v.burst.Publications, "burst.pubs", 64, "burst: publications in a burst")
	f.IntVar(&v.burst.Payload, "burst.size", 128, "burst: bytes of a payload")

	f.IntVar(&v.single.Sessions, "single.n", 1000, "single: sessions")
	f.IntVar(&v.single.Payload, "single.size", 128, "single: bytes of a payload")

	f.IntVar(&v.topics.Topics, "topics.topics", 100, "topics: how many")
	f.IntVar(&v.topics.Each, "topics.each", 10, "topics: sessions of each")
	f.IntVar(&v.topics.Publications, "topics.pubs", 64, "topics: publications on each in a burst")
	f.IntVar(&v.topics.Payload, "topics.size", 512, "topics: bytes of a payload")

	f.IntVar(&v.chat.Sessions, "chat.n", 1000, "chat: sessions")
	f.IntVar(&v.chat.Room, "chat.room", 20, "chat: sessions in a room")
	f.IntVar(&v.chat.Window, "chat.window", 1, "chat: messages of one session under way")
	f.IntVar(&v.chat.Payload, "chat.size", 128, "chat: bytes of a payload")

	f.IntVar(&v.paced.Topics, "paced.topics", 50, "paced: topics")
	f.IntVar(&v.paced.Each, "paced.each", 20, "paced: sessions of each")
	f.IntVar(&v.paced.Rate, "paced.rate", 20_000, "paced: deliveries a second")
	f.IntVar(&v.paced.Payload, "paced.size", 128, "paced: bytes of a payload")
	f.DurationVar(&v.paced.Time, "paced.time", 3*time.Second, "paced: how long each run measures")

	f.IntVar(&v.idle.Sessions, "idle.n", 10_000, "idle: sessions")

	f.IntVar(&v.idleTLS.Sessions, "idle-tls.n", 4000, "idle-tls: sessions")

	f.IntVar(&v.connect.Sessions, "connect.n", 15_000, "connect: sessions")
	f.IntVar(&v.connect.UnderWay, "connect.underway", 64, "connect: how many dial at a time")

	f.IntVar(&v.storm.Sessions, "storm.n", 15_000, "storm: clients")
	f.DurationVar(&v.storm.Auth, "storm.auth", 50*time.Millisecond, "storm: how long a sign-in takes")

	f.IntVar(&v.resume.Clients, "resume.n", 1000, "resume: clients that come back")
	f.IntVar(&v.resume.Missed, "resume.missed", 1000, "resume: publications that each has missed")

	f.StringVar(&v.growth, "growth", "100,1000,10000", "sessions, manytopics: the sizes")
	f.IntVar(&v.growthPayload, "growth.size", 128, "sessions, manytopics: bytes of a payload")
	f.IntVar(&v.growthSessions, "growth.n", 1000, "manytopics: sessions")

	f.IntVar(&v.slow.Sessions, "slow.n", 100, "slow: sessions that read")
	f.IntVar(&v.slow.Rate, "slow.rate", 20_000, "slow: deliveries a second to them")
	f.IntVar(&v.slow.Payload, "slow.size", 1024, "slow: bytes of a payload")
	f.DurationVar(&v.slow.Time, "slow.time", 4*time.Second, "slow: how long each run takes")
	return f
}

// applyQuick sets what the command line did not.
func applyQuick(flags *flag.FlagSet) {
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	for name, value := range quickDefaults {
		if !given[name] {
			flags.Set(name, value)
		}
	}
}

// defaultOut is the page in the repository, whether this runs at its root or in
// its own folder.
func defaultOut() string {
	if _, err := os.Stat("bench/go.mod"); err == nil {
		return "bench/RESULTS.md"
	}
	return "RESULTS.md"
}

func (v *flagValues) settings() (settings, error) {
	s := settings{Env: v.env, Rounds: v.rounds, Out: v.out}
	if v.rounds < 1 || v.longRounds < 1 || v.env.Time <= 0 || v.env.Options.Queue < 1 {
		return s, errors.New("-rounds, -longrounds, -time and -queue must be positive")
	}
	var err error
	if s.Kinds, err = selectServers(v.servers); err != nil {
		return s, err
	}
	if s.Workloads, err = v.selectWorkloads(); err != nil {
		return s, err
	}
	if s.Env.CPUs, s.GeneratorCPUs, err = parsePin(v.pin); err != nil {
		return s, err
	}
	if v.profile == "" {
		return s, nil
	}
	if len(s.Kinds) != 1 || len(s.Workloads) != 1 || len(s.Workloads[0].Cases) != 1 {
		return s, errors.New("-cpuprofile needs one server and one workload with one case, such as -servers livetopic -workloads burst")
	}
	s.Env.Profile, s.Rounds, s.Out = v.profile, 1, ""
	return s, nil
}

func serverNames() []string {
	var names []string
	for _, k := range server.Kinds() {
		names = append(names, k.Name)
	}
	return names
}

func selectServers(list string) ([]server.Kind, error) {
	if list == "all" {
		return server.Kinds(), nil
	}
	var kinds []server.Kind
	for name := range strings.SplitSeq(list, ",") {
		k, ok := server.Lookup(name)
		if !ok {
			return nil, fmt.Errorf("there is no server %q; there are %s", name, strings.Join(serverNames(), ", "))
		}
		kinds = append(kinds, k)
	}
	return kinds, nil
}

func (v *flagValues) selectWorkloads() ([]workload, error) {
	all, err := v.catalogue()
	if err != nil || v.workloads == "all" {
		return all, err
	}
	var chosen []workload
	for name := range strings.SplitSeq(v.workloads, ",") {
		found := false
		for _, w := range all {
			if w.Name == name {
				chosen, found = append(chosen, w), true
			}
		}
		if !found {
			return nil, fmt.Errorf("there is no workload %q", name)
		}
	}
	return chosen, nil
}

// parsePin reads "0,1/2,3".
func parsePin(text string) (servers, generator []int, err error) {
	if text == "" {
		return nil, nil, nil
	}
	left, right, ok := strings.Cut(text, "/")
	if !ok {
		return nil, nil, fmt.Errorf("-pin %q is not of the form 0/1", text)
	}
	if servers, err = parseInts(left); err != nil {
		return nil, nil, fmt.Errorf("-pin: %w", err)
	}
	if generator, err = parseInts(right); err != nil {
		return nil, nil, fmt.Errorf("-pin: %w", err)
	}
	return servers, generator, nil
}

func parseInts(list string) ([]int, error) {
	var numbers []int
	for word := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 0 {
			return nil, fmt.Errorf("%q is no number", word)
		}
		numbers = append(numbers, n)
	}
	return numbers, nil
}
