package api_test

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"pipeproc/api"
)

func secretOf(n int) string { return "whsec_" + base64.StdEncoding.EncodeToString(make([]byte, n)) }

func TestSecretKey(t *testing.T) {
	for _, n := range []int{24, 25, 26, 32, 63, 64} {
		if key, err := api.SecretKey(secretOf(n)); err != nil || len(key) != n {
			t.Errorf("%d bytes: %d, %v", n, len(key), err)
		}
	}
	if key, err := api.SecretKey("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"); err != nil || key[0] != 0x0b || key[23] != 0x03 {
		t.Errorf("%x, %v", key, err)
	}
	full := strings.TrimPrefix(secretOf(24), "whsec_")
	for _, secret := range []string{"", "whsec_", full, "WHSEC_" + full, "whsec-" + full, "whpk_" + full, " " + secretOf(24),
		secretOf(24) + " ", secretOf(24) + "\n", "whsec_" + full[:16] + "\r\n" + full[16:], secretOf(0), secretOf(23), secretOf(65), secretOf(1000),
		"whsec_" + strings.Repeat("-", 32), "whsec_" + strings.Repeat("_", 32), "whsec_" + strings.Repeat("é", 32),
		strings.TrimRight(secretOf(32), "="), secretOf(32) + "=", strings.TrimSuffix(secretOf(25), "A==") + "B=="} {
		key, err := api.SecretKey(secret)
		if api.CodeOf(err) != api.CodeInvalidRequest || key != nil {
			t.Errorf("%q: %d bytes, %v", secret, len(key), err)
		} else if body := strings.TrimPrefix(secret, "whsec_"); len(body) > 8 && strings.Contains(err.Error(), body) {
			t.Errorf("the secret is told: %v", err)
		}
	}
}

func TestNewSecret(t *testing.T) {
	seen := map[string]bool{}
	for range 100 {
		secret := api.NewSecret()
		if key, err := api.SecretKey(secret); err != nil || len(key) != 32 || seen[secret] {
			t.Fatalf("%d bytes, %v, seen %v", len(key), err, seen[secret])
		}
		seen[secret] = true
	}
}

// TestRotate: each step rotates at a time, and tells what signs then and at certain times after.
func TestRotate(t *testing.T) {
	type step struct {
		at, overlap int64
		to          string
	}
	tests := []struct {
		name     string
		steps    []step // the first secret is "a", at 0
		previous int64  // after the last step; 0 null
		signing  map[int64]string
	}{
		{"never", nil, 0, map[int64]string{0: "a", 1 << 60: "a"}},
		{"once", []step{{100, 50, "b"}}, 150, map[int64]string{100: "b a", 149: "b a", 150: "b", 1 << 60: "b"}},
		{"no overlap", []step{{100, 0, "b"}}, 0, map[int64]string{0: "b", 100: "b"}},
		{"twice quickly", []step{{100, 50, "b"}, {101, 50, "c"}}, 151, map[int64]string{101: "c b a", 149: "c b a", 150: "c b", 151: "c"}},
		{"the second is shorter", []step{{100, 50, "b"}, {110, 10, "c"}}, 120, map[int64]string{110: "c b a", 119: "c b a", 120: "c"}},
		{"the second is longer", []step{{100, 50, "b"}, {110, 90, "c"}}, 200, map[int64]string{149: "c b a", 150: "c b", 199: "c b", 200: "c"}},
		{"ends all", []step{{100, 50, "b"}, {101, 50, "c"}, {102, 0, "d"}}, 0, map[int64]string{100: "d", 102: "d"}},
		{"after the overlap", []step{{100, 50, "b"}, {150, 50, "c"}}, 200, map[int64]string{0: "c b", 199: "c b", 200: "c"}},
		{"the same", []step{{100, 50, "b"}, {120, 90, "b"}}, 150, map[int64]string{120: "b a", 150: "b"}},
		{"the same, no overlap", []step{{100, 50, "b"}, {120, 0, "b"}}, 150, map[int64]string{120: "b a", 150: "b"}},
		{"the same, later", []step{{100, 50, "b"}, {150, 90, "b"}}, 0, map[int64]string{150: "b"}},
		{"the first again", []step{{100, 50, "a"}}, 0, map[int64]string{100: "a", 1 << 60: "a"}},
		{"back", []step{{100, 50, "b"}, {110, 50, "a"}}, 160, map[int64]string{110: "a b", 150: "a b", 160: "a"}},
		{"back, and on", []step{{100, 50, "b"}, {110, 50, "a"}, {115, 10, "c"}}, 125, map[int64]string{115: "c a b", 125: "c"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := api.Secrets{{Secret: "a"}}
			now := int64(0)
			for _, step := range tt.steps {
				before := s.Signing(step.at)
				next, err := s.Rotate(step.at, step.to, step.overlap)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(before, s.Signing(step.at)); diff != "" {
					t.Error("the secrets of before were changed:", diff)
				}
				s, now = next, step.at
			}
			for at, want := range tt.signing {
				if got := strings.Join(s.Signing(at), " "); got != want {
					t.Errorf("at %d %s signs, want %s", at, got, want)
				}
			}
			var previous int64
			if p := s.PreviousExpiresAt(now); p != nil {
				previous = *p
			}
			if previous != tt.previous {
				t.Errorf("previousExpiresAt %d, want %d", previous, tt.previous)
			}
		})
	}
}

func TestRotateAtTheLimit(t *testing.T) {
	s := api.Secrets{{Secret: "a"}}
	rotate := func(now int64, overlap int64) error {
		next, err := s.Rotate(now, api.NewSecret(), overlap)
		if err == nil {
			s = next
		}
		return err
	}
	for i := range 9 {
		if err := rotate(int64(i), 100); err != nil {
			t.Fatal(i, err)
		}
	}
	if n := len(s.Signing(9)); n != 10 {
		t.Fatalf("%d sign", n)
	}
	if err := rotate(9, 100); api.CodeOf(err) != api.CodeInvalidRequest || !strings.Contains(err.Error(), `"overlap": 0`) {
		t.Errorf("the eleventh: %v", err)
	}
	if again, err := s.Rotate(9, s[0].Secret, 100); err != nil || len(again) != 10 {
		t.Errorf("the current one: %d, %v", len(again), err)
	}
	if back, err := s.Rotate(9, s[3].Secret, 100); err != nil || len(back) != 10 || back[0].ExpiresAt != nil {
		t.Errorf("a former one: %d, %v", len(back), err)
	}
	if err := rotate(100, 100); err != nil { // the first one has ended
		t.Error("the eleventh, later:", err)
	}
	if err := rotate(100, 0); err != nil || len(s) != 1 {
		t.Errorf("without overlap: %d, %v", len(s), err)
	}
}

func TestSecretRotationIsChecked(t *testing.T) {
	for _, r := range []api.SecretRotation{{}, {Secret: api.NewSecret()}, {Overlap: new(int64(0))}, {Overlap: new(int64(api.MaxOverlap))}} {
		if err := r.Validate(); err != nil {
			t.Errorf("%+v: %v", r, err)
		}
	}
	for _, r := range []api.SecretRotation{{Secret: "x"}, {Overlap: new(int64(-1))}, {Overlap: new(int64(api.MaxOverlap + 1))}} {
		if api.CodeOf(r.Validate()) != api.CodeInvalidRequest {
			t.Errorf("%+v: %v", r, r.Validate())
		}
	}
}
