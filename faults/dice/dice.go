// Package dice is the Go side of bpf/include/dice.h: it turns a document's
// rate, ramp, pulse and loss model into what the programs read, and gives the
// same choices for the same seed and ordinal, so that tests and people can say
// beforehand which event will be hit.
package dice

import (
	"hash/fnv"
	"math"
	"time"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

// Always is the probability 1 in the programs' parts of 2^32.
const Always = 1 << 32

// Model says how a fault chooses among the events that its rate lets through.
// The values are those of enum fl_model.
type Model uint32

// The models.
const (
	ModelAlways Model = iota
	ModelIndependent
	ModelCorrelated
	ModelGilbertElliott
)

// Stream separates the questions that are asked about one event. The values
// are those of enum fl_stream.
type Stream uint32

// The streams.
const (
	StreamRate Stream = iota
	StreamModel
	StreamChain
	StreamRamp
	streams
)

// Config is struct fl_dice. Probabilities are in parts of 2^32, times in
// nanoseconds.
type Config struct {
	Seed               uint64
	Skip, Every, First uint64
	Probability        uint64
	Loss, Correlation  uint64
	GoodToBad          uint64
	BadToGood          uint64
	LossGood, LossBad  uint64
	Ramp               uint64
	PulseOn            uint64
	PulsePeriod        uint64
	Model              Model
	_                  uint32
}

// New takes what every fault may have from spec: rate, ramp and pulse. The
// model is ModelAlways.
func New(seed uint64, spec *v1.Fault) Config {
	rate := spec.GetRate()
	c := Config{
		Seed:        seed,
		Skip:        rate.GetSkip(),
		Every:       rate.GetEvery(),
		First:       rate.GetFirst(),
		Probability: Always,
		Ramp:        nanoseconds(spec.GetRampUp().AsDuration()),
	}
	if rate.GetProbability() > 0 {
		c.Probability = Threshold(rate.GetProbability())
	}
	if pulse := spec.GetPulse(); pulse != nil {
		c.PulseOn = nanoseconds(pulse.GetOn().AsDuration())
		c.PulsePeriod = c.PulseOn + nanoseconds(pulse.GetOff().AsDuration())
	}
	return c
}

// Lose sets the model of a networkLoss.
func (c *Config) Lose(loss *v1.NetworkLoss) {
	if ge := loss.GetGilbertElliott(); ge != nil {
		lossBad := 100.0
		if ge.LossBad != nil {
			lossBad = ge.GetLossBad()
		}
		c.Model = ModelGilbertElliott
		c.GoodToBad = percent(ge.GetP())
		c.BadToGood = percent(ge.GetR())
		c.LossGood = percent(ge.GetLossGood())
		c.LossBad = percent(lossBad)
		return
	}
	c.Share(loss)
}

// Share hits a share of the events, each independently or with correlation to
// the one before. Both are percentages.
func (c *Config) Share(of interface {
	GetPercent() float64
	GetCorrelation() float64
},
) {
	c.Model = ModelIndependent
	c.Loss = percent(of.GetPercent())
	if of.GetCorrelation() > 0 {
		c.Model = ModelCorrelated
		c.Correlation = percent(of.GetCorrelation())
	}
}

// Threshold turns a probability, 0 to 1, into parts of 2^32.
func Threshold(probability float64) uint64 {
	return uint64(math.Round(min(max(probability, 0), 1) * Always))
}

func percent(p float64) uint64 { return Threshold(p / 100) }

func nanoseconds(d time.Duration) uint64 { return uint64(max(d, 0)) }

// Random is random_at of the programs: 32 bits for one question about the
// event with that ordinal, counted from 0.
func Random(seed, ordinal uint64, stream Stream) uint32 {
	return uint32(splitmix(seed+(ordinal*uint64(streams)+uint64(stream)+1)*0x9e3779b97f4a7c15) >> 32)
}

func splitmix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Derive gives one fault of an experiment a seed of its own, so that adding a
// fault does not change the choices of the others.
func Derive(seed uint64, name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // never fails
	return splitmix(seed ^ splitmix(h.Sum64()))
}

// Sequence repeats the choices of the programs, one event after another.
type Sequence struct {
	config        Config
	ordinal, hits uint64
	bad, last     bool
}

// NewSequence begins with the first event.
func NewSequence(c Config) *Sequence { return &Sequence{config: c} }

// Next tells whether the next matching event is hit, when the ramp is over.
func (s *Sequence) Next() bool { return s.NextAt(math.MaxInt64) }

// NextAt does so that long after the fault began.
func (s *Sequence) NextAt(elapsed time.Duration) bool {
	n := s.ordinal
	s.ordinal++
	hit := s.model(n) && s.rate(n) && s.ramp(n, nanoseconds(elapsed))
	if hit && s.config.First != 0 && s.hits >= s.config.First {
		return false
	}
	if hit {
		s.hits++
	}
	return hit
}

func (s *Sequence) chance(n uint64, stream Stream, probability uint64) bool {
	return uint64(Random(s.config.Seed, n, stream)) < probability
}

func (s *Sequence) model(n uint64) bool {
	c := s.config
	switch c.Model {
	case ModelIndependent:
		return s.chance(n, StreamModel, c.Loss)
	case ModelCorrelated:
		if n == 0 || !s.chance(n, StreamChain, c.Correlation) {
			s.last = s.chance(n, StreamModel, c.Loss)
		}
		return s.last
	case ModelGilbertElliott:
		turn, loss := c.GoodToBad, c.LossGood
		if s.bad {
			turn = c.BadToGood
		}
		if s.chance(n, StreamChain, turn) {
			s.bad = !s.bad
		}
		if s.bad {
			loss = c.LossBad
		}
		return s.chance(n, StreamModel, loss)
	default:
		return true
	}
}

func (s *Sequence) ramp(n, elapsed uint64) bool {
	return elapsed >= s.config.Ramp || s.chance(n, StreamRamp, (elapsed<<16)/s.config.Ramp<<16)
}

// Ordinal is that of the next event.
func (s *Sequence) Ordinal() uint64 { return s.ordinal }

// On tells whether a fault is in the on part of its pulse, that long after it began.
func (c Config) On(elapsed time.Duration) bool {
	return c.PulsePeriod == 0 || nanoseconds(elapsed)%c.PulsePeriod < c.PulseOn
}

func (s *Sequence) rate(n uint64) bool {
	c := s.config
	if n < c.Skip {
		return false
	}
	if c.Every != 0 && (n-c.Skip+1)%c.Every != 0 {
		return false
	}
	return s.chance(n, StreamRate, c.Probability)
}
