package client

import (
	"context"
	"encoding/json"
	"net/http"

	"pipeproc/api"
)

// Proc claims the next logs of a proc, which is created if it is unknown and req.Topic is given. nil is nothing to do.
// A live claim is api.CodeAlreadyClaimed, its error telling ExpiresAt.
func (c *Client) Proc(ctx context.Context, name string, req api.ClaimRequest) (*api.Claimed, error) {
	return c.claim(ctx, path("procs", name, "claim"), req)
}

// AvailableProc creates the unknown procs and claims logs of the first with work, the least recently claimed first; nil
// is nothing to do.
func (c *Client) AvailableProc(ctx context.Context, req api.ClaimAnyRequest) (*api.Claimed, error) {
	return c.claim(ctx, path("claims"), req)
}

func (c *Client) claim(ctx context.Context, path string, req any) (*api.Claimed, error) {
	var claimed *api.Claimed
	_, err := c.call(ctx, http.MethodPost, path, req, &claimed)
	return claimed, err
}

// AckOptions are what an ack may carry.
type AckOptions struct {
	Token     string // "": the live claim, whosever it is
	ClaimNext bool   // claim the next logs in the same transaction; needs Token
	Count     *int   // of that next claim alone
}

type ackRequest struct {
	Token     string `json:"token,omitempty"`
	ClaimNext bool   `json:"claimNext,omitempty"`
	Count     *int   `json:"count,omitempty"`
	Logs      any    `json:"logs,omitempty"`
}

// Ack ends the live claim: its logs are processed. A repeat with the token of the last applied ack answers the same and
// changes nothing.
func (c *Client) Ack(ctx context.Context, proc string, o AckOptions) (api.Acked, error) {
	return c.ack(ctx, proc, "ack", o, nil)
}

// AckCommit is Ack that commits one log in the same transaction.
func (c *Client) AckCommit(ctx context.Context, proc string, o AckOptions, log api.NewLog) (api.Acked, error) {
	return c.ack(ctx, proc, "ack-commit", o, log)
}

// AckCommitAll is Ack that commits logs to any topics in the same transaction.
func (c *Client) AckCommitAll(ctx context.Context, proc string, o AckOptions, logs []api.NewLog) (api.Acked, error) {
	if logs == nil {
		logs = []api.NewLog{}
	}
	return c.ack(ctx, proc, "ack-commit", o, logs)
}

func (c *Client) ack(ctx context.Context, proc, route string, o AckOptions, logs any) (api.Acked, error) {
	var out struct {
		AckedLogID string    `json:"ackedLogId"`
		ID         *api.ID   `json:"id"`
		IDs        []api.ID  `json:"ids"`
		Next       nextClaim `json:"next"`
	}
	if _, err := c.call(ctx, http.MethodPost, path("procs", proc, route), ackRequest{o.Token, o.ClaimNext, o.Count, logs},
		&out); err != nil {
		return api.Acked{}, err
	}
	acked := api.Acked{Acked: out.AckedLogID, IDs: out.IDs, NextAsked: out.Next.told, Next: out.Next.claimed}
	if out.ID != nil {
		acked.IDs, acked.One = []api.ID{*out.ID}, true
	}
	if acked.Next != nil {
		acked.Next.Proc = proc // next itself is {claim, logs}
	}
	return acked, nil
}

// Reclaim ends the live claim without an ack: the same logs will be handed out again. "" as the token means the live
// claim, whosever it is. It answers the last claimed range after the reset.
func (c *Client) Reclaim(ctx context.Context, proc, token string) (api.Range, error) {
	var out struct {
		LastClaimedRange api.Range `json:"lastClaimedRange"`
	}
	_, err := c.call(ctx, http.MethodPost, path("procs", proc, "reclaim"), ackRequest{Token: token}, &out)
	return out.LastClaimedRange, err
}

// Extend gives the live claim a full reclaimTimeout from now on.
func (c *Client) Extend(ctx context.Context, proc, token string) (api.Claim, error) {
	var out struct {
		Claim api.Claim `json:"claim"`
	}
	_, err := c.call(ctx, http.MethodPost, path("procs", proc, "extend"), map[string]string{"token": token}, &out)
	return out.Claim, err
}

// Seek moves a proc to any form of offset.
func (c *Client) Seek(ctx context.Context, proc, offset string) (api.Proc, error) {
	return c.proc(ctx, http.MethodPost, path("procs", proc, "seek"), map[string]string{"offset": offset})
}

// InspectProc tells of a proc as it stands.
func (c *Client) InspectProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodGet, path("procs", name), nil)
}

// InspectProcs lists procs, by name; zero members of q select every proc.
func (c *Client) InspectProcs(ctx context.Context, q api.ProcQuery) (list api.ProcList, err error) {
	query := ListOptions{After: q.After, Limit: q.Limit}.query()
	set(query, "topic", q.Topic)
	set(query, "kind", string(q.Kind))
	_, err = c.call(ctx, http.MethodGet, withQuery(path("procs"), query), nil, &list)
	return list, err
}

// CreateProc creates a proc without claiming. The same options again change nothing; created is false.
func (c *Client) CreateProc(ctx context.Context, name string, o api.ProcOptions) (p api.Proc, created bool, err error) {
	resp, err := c.call(ctx, http.MethodPut, path("procs", name), o, &p)
	return p, err == nil && resp.StatusCode == http.StatusCreated, err
}

// PatchProc changes a proc's options; absent ones stay as they are.
func (c *Client) PatchProc(ctx context.Context, name string, patch api.ProcPatch) (api.Proc, error) {
	return c.proc(ctx, http.MethodPatch, path("procs", name), patch)
}

// DestroyProc forgets a proc, and answers it as it was.
func (c *Client) DestroyProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodDelete, path("procs", name), nil)
}

// DisableProc stops a proc from handing out logs.
func (c *Client) DisableProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodPost, path("procs", name, "disable"), nil)
}

// ResumeProc lets a disabled proc hand out logs again.
func (c *Client) ResumeProc(ctx context.Context, name string) (api.Proc, error) {
	return c.proc(ctx, http.MethodPost, path("procs", name, "resume"), nil)
}

func (c *Client) proc(ctx context.Context, method, path string, in any) (p api.Proc, err error) {
	_, err = c.call(ctx, method, path, in, &p)
	return p, err
}

// WaitForProcs waits until every named proc has acked everything, or everything up to its id in req.UpTo, at one instant;
// Done is false when req.Timeout passed first. A nil req.Procs means those of req.UpTo, or every active proc.
func (c *Client) WaitForProcs(ctx context.Context, req api.WaitRequest) (waited api.Waited, err error) {
	in := map[string]any{}
	if req.Procs != nil { // unlike an absent list, an empty one is refused
		in["procs"] = req.Procs
	}
	if req.UpTo != nil {
		in["upTo"] = req.UpTo
	}
	if req.Timeout != nil {
		in["timeout"] = *req.Timeout
	}
	_, err = c.call(ctx, http.MethodPost, path("wait"), in, &waited)
	return waited, err
}

// SystemProc creates a systemProc, and answers its procs and the secret that signs its webhook's calls, where the server
// generated that: it is told this once, RotateSecret gives another one. The same definition again changes nothing; created
// is false.
func (c *Client) SystemProc(ctx context.Context, spec api.SystemProcSpec) (made api.SystemProcMade, created bool, err error) {
	resp, err := c.call(ctx, http.MethodPost, path("system-procs"), spec, &made)
	return made, err == nil && resp.StatusCode == http.StatusCreated, err
}

// RotateSecret gives a systemProc another secret: the one given, else one that is generated and told this once. Those used
// so far go on signing beside it for r.Overlap ms. The current one again changes nothing, so a rotation to a secret that
// is given may be repeated.
func (c *Client) RotateSecret(ctx context.Context, name string, r api.SecretRotation) (rotated api.RotatedSecret, err error) {
	_, err = c.call(ctx, http.MethodPost, path("system-procs", name, "rotate-secret"), r, &rotated)
	return rotated, err
}

// InspectSystemProc tells of a systemProc as it stands, with its procs.
func (c *Client) InspectSystemProc(ctx context.Context, name string) (api.SystemProc, error) {
	return c.systemProc(ctx, http.MethodGet, name, nil)
}

// InspectSystemProcs lists the systemProcs, by name.
func (c *Client) InspectSystemProcs(ctx context.Context, o ListOptions) (list api.SystemProcList, err error) {
	_, err = c.call(ctx, http.MethodGet, withQuery(path("system-procs"), o.query()), nil, &list)
	return list, err
}

// PatchSystemProc changes a systemProc; absent members stay as they are.
func (c *Client) PatchSystemProc(ctx context.Context, name string, patch api.SystemProcPatch) (api.SystemProc, error) {
	return c.systemProc(ctx, http.MethodPatch, name, patch)
}

// DestroySystemProc destroys a systemProc with its procs, and answers it as it was.
func (c *Client) DestroySystemProc(ctx context.Context, name string) (api.SystemProc, error) {
	return c.systemProc(ctx, http.MethodDelete, name, nil)
}

func (c *Client) systemProc(ctx context.Context, method, name string, in any) (sp api.SystemProc, err error) {
	_, err = c.call(ctx, method, path("system-procs", name), in, &sp)
	return sp, err
}

// nextClaim tells a next that is null from one that is absent.
type nextClaim struct {
	told    bool
	claimed *api.Claimed
}

// UnmarshalJSON is called for whatever is present, null included.
func (n *nextClaim) UnmarshalJSON(data []byte) error {
	n.told = true
	return json.Unmarshal(data, &n.claimed)
}
