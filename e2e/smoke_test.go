package e2e

import (
	"testing"

	"pipeproc/api"
	"pipeproc/client"
)

func TestSmoke(t *testing.T) {
	t.Parallel()
	s := start(t)
	ctx := t.Context()
	committed, err := s.CommitTo(ctx, "a", map[string]int{"n": 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(committed)
	claimed, err := s.Proc(ctx, "p", api.ClaimRequest{ProcOptions: api.ProcOptions{Topic: "a"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(claimed)
	acked, err := s.Ack(ctx, "p", client.AckOptions{Token: claimed.Claim.Token})
	t.Log(acked, err)
}
