package httpapi

import "net/http"

// routes is the whole surface. Before a route stands the role that it takes. After the handler come the query parameters of
// the route: any other is refused, and so is a repeated one that is not repeatable.
func (s *Server) routes() {
	get, post, put, patch, del := s.on(http.MethodGet), s.on(http.MethodPost), s.on(http.MethodPut),
		s.on(http.MethodPatch), s.on(http.MethodDelete)

	post(RoleWrite, "/v1/commit", s.commit)
	get(RoleRead, "/v1/topics", s.listTopics, "limit", "after")
	get(RoleRead, "/v1/topics/{topic}", s.topic)
	del(RoleAdmin, "/v1/topics/{topic}", s.audited("delete topic", s.deleteTopic), "force")
	post(RoleWrite, "/v1/topics/{topic}/logs", s.commitBody)
	s.stream(RoleRead, "/v1/topics/{topic}/logs", s.rangeLogs, "start", "end", "limit", "exclusive", "direction",
		"lastEventId")
	get(RoleRead, "/v1/topics/{topic}/logs/{id}", s.log)

	post(RoleWrite, "/v1/claims", whileKeyLives(s.claimAny))
	get(RoleRead, "/v1/procs", s.listProcs, "topic", "kind", "limit", "after")
	get(RoleRead, "/v1/procs/{proc}", s.proc)
	put(RoleWrite, "/v1/procs/{proc}", s.createProc)
	patch(RoleWrite, "/v1/procs/{proc}", s.patchProc)
	del(RoleWrite, "/v1/procs/{proc}", s.audited("destroy proc", s.destroyProc))
	post(RoleWrite, "/v1/procs/{proc}/claim", whileKeyLives(s.claim))
	post(RoleWrite, "/v1/procs/{proc}/ack", s.ack)
	post(RoleWrite, "/v1/procs/{proc}/ack-commit", s.ackCommit)
	post(RoleWrite, "/v1/procs/{proc}/reclaim", s.reclaim)
	post(RoleWrite, "/v1/procs/{proc}/extend", s.extend)
	post(RoleWrite, "/v1/procs/{proc}/seek", s.seek)
	post(RoleWrite, "/v1/procs/{proc}/disable", s.audited("disable proc", s.disableProc))
	post(RoleWrite, "/v1/procs/{proc}/resume", s.audited("resume proc", s.resumeProc))
	post(RoleRead, "/v1/wait", whileKeyLives(s.wait))

	get(RoleAdmin, "/v1/system-procs", s.listSystemProcs, "limit", "after")
	post(RoleAdmin, "/v1/system-procs", s.createSystemProc)
	get(RoleAdmin, "/v1/system-procs/{name}", s.systemProc)
	patch(RoleAdmin, "/v1/system-procs/{name}", s.patchSystemProc)
	del(RoleAdmin, "/v1/system-procs/{name}", s.audited("destroy systemProc", s.destroySystemProc))
	post(RoleAdmin, "/v1/system-procs/{name}/rotate-secret", s.audited("rotate secret", s.rotateSecret))

	post(RoleWrite, "/v1/live-procs", s.createLiveProc)
	del(RoleWrite, "/v1/live-procs/{name}", s.audited("destroy liveProc", s.destroyLiveProc))
	post(RoleWrite, "/v1/live-procs/{name}/cancel", s.audited("cancel liveProc", s.cancelLiveProc))
	s.stream(RoleWrite, "/v1/live-procs/{name}/changes", s.changes, "lastEventId")
	s.stream(RoleWrite, "/v1/topics/{topic}/live", s.live, "mode", "count", "ttl", "lastEventId")
	s.stream(RoleRead, "/v1/tail", s.tail, "topic"+repeatable, "start", "lastEventId")
	post(RoleRead, "/v1/stream-tickets", s.createTicket)

	post(RoleAdmin, "/v1/gc", s.collect)
	get(RoleRead, "/v1/gc", s.lastCollect)
	if s.Shutdown != nil {
		post(RoleAdmin, "/v1/shutdown", s.audited("shut down", s.shutdown))
	}
	get(RoleNone, "/healthz", s.healthz)
	get(RoleNone, "/readyz", s.readyz)
	get(RoleRead, "/metrics", s.serveMetrics())
	get(RoleNone, "/openapi.yaml", s.openAPI)
}

// on registers routes of one method.
func (s *Server) on(method string) func(role Role, pattern string, h handler, query ...string) {
	return func(role Role, pattern string, h handler, query ...string) {
		if method == http.MethodGet && role != RoleNone {
			h = inTime(h)
		}
		s.router.Method(method, pattern, s.handle(s.access(role, s.limitKey(checked(h, query)))))
	}
}

// stream registers a route of streams, which tickets open, too.
func (s *Server) stream(role Role, pattern string, h handler, query ...string) {
	s.streamRoles[pattern] = role
	s.router.Method(http.MethodGet, pattern, s.handle(s.accessStream(role, s.limitKey(checked(h, query)))))
}
