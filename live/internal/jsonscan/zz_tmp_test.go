package jsonscan
import ("testing";"strings")
func BenchmarkTmp(b *testing.B) {
	for _, n := range []string{`"\\":0,`, `"x":0,`, `"\u006fp":0,`, `"aaaaaaaaaa\n":0,`,`"":0,`, `"\ud83d\ude00":0,`} {
		text := []byte(`{"op":"pong",` + strings.TrimSuffix(strings.Repeat(n, (1<<20)/len(n)), ",") + "}")
		b.Run("valid "+n, func(b *testing.B) { b.SetBytes(int64(len(text))); for b.Loop() { Valid(text) }; b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(text))*0.1, "%CPU") })
		b.Run("members "+n, func(b *testing.B) { b.ReportAllocs(); b.SetBytes(int64(len(text))); k := 0; for b.Loop() { Members(text, func(name, v []byte) bool { switch string(name) { case "op", "id", "topic", "data", "since", "last", "limit": k++ }; return true }) }; b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(len(text))*0.1, "%CPU") })
	}
}
