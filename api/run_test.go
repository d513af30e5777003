package api_test

import (
	"testing"

	"pipeproc/api"
)

func TestRun(t *testing.T) {
	forward := api.Run{TopicID: 1, From: 3, To: 8}
	reverse := api.Run{TopicID: 1, From: 3, To: 8, Reverse: true}
	for _, c := range []struct{ got, want api.Run }{
		{forward.First(2), api.Run{TopicID: 1, From: 3, To: 5}},
		{reverse.First(2), api.Run{TopicID: 1, From: 6, To: 8, Reverse: true}},
		{forward.First(5), forward},
		{reverse.First(1<<63 - 1), reverse},
		{forward.After(4), api.Run{TopicID: 1, From: 5, To: 8}},
		{reverse.After(6), api.Run{TopicID: 1, From: 3, To: 6, Reverse: true}},
		{api.Run{From: 8, To: 3}.First(2), api.Run{From: 8, To: 3}},
	} {
		if c.got != c.want {
			t.Errorf("%+v, want %+v", c.got, c.want)
		}
	}
	for r, want := range map[api.Run]int64{forward: 5, forward.After(7): 0, reverse.After(3): 0, {From: 8, To: 3}: 0} {
		if r.Len() != want {
			t.Errorf("%+v has %d", r, r.Len())
		}
	}
}
