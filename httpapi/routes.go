package httpapi

import "net/http"

// routes is the whole surface. After the handler come the query parameters of the route: any other is refused, and so is
// a repeated one that is not repeatable.
func (s *Server) routes() {
	get, post, put, patch, del := s.on(http.MethodGet), s.on(http.MethodPost), s.on(http.MethodPut),
		s.on(http.MethodPatch), s.on(http.MethodDelete)

	post("/v1/commit", s.commit)
	get("/v1/topics", s.listTopics, "limit", "after")
	get("/v1/topics/{topic}", s.topic)
	del("/v1/topics/{topic}", s.deleteTopic, "force")
	post("/v1/topics/{topic}/logs", s.commitBody)
	get("/v1/topics/{topic}/logs", s.rangeLogs, "start", "end", "limit", "exclusive", "direction",
		"lastEventId")
	get("/v1/topics/{topic}/logs/{id}", s.log)

	post("/v1/claims", s.claimAny)
	get("/v1/procs", s.listProcs, "topic", "kind", "limit", "after")
	get("/v1/procs/{proc}", s.proc)
	put("/v1/procs/{proc}", s.createProc)
	patch("/v1/procs/{proc}", s.patchProc)
	del("/v1/procs/{proc}", s.destroyProc)
	post("/v1/procs/{proc}/claim", s.claim)
	post("/v1/procs/{proc}/ack", s.ack)
	post("/v1/procs/{proc}/ack-commit", s.ackCommit)
	post("/v1/procs/{proc}/reclaim", s.reclaim)
	post("/v1/procs/{proc}/extend", s.extend)
	post("/v1/procs/{proc}/seek", s.seek)
	post("/v1/procs/{proc}/disable", s.disableProc)
	post("/v1/procs/{proc}/resume", s.resumeProc)
	post("/v1/wait", s.wait)

	get("/v1/system-procs", s.listSystemProcs, "limit", "after")
	post("/v1/system-procs", s.createSystemProc)
	get("/v1/system-procs/{name}", s.systemProc)
	patch("/v1/system-procs/{name}", s.patchSystemProc)
	del("/v1/system-procs/{name}", s.destroySystemProc)
	post("/v1/system-procs/{name}/rotate-secret", s.rotateSecret)

	post("/v1/live-procs", s.createLiveProc)
	del("/v1/live-procs/{name}", s.destroyLiveProc)
	post("/v1/live-procs/{name}/cancel", s.cancelLiveProc)
	get("/v1/live-procs/{name}/changes", s.changes, "lastEventId")
	get("/v1/topics/{topic}/live", s.live, "mode", "count", "ttl", "lastEventId")
	get("/v1/tail", s.tail, "topic"+repeatable, "start", "lastEventId")

	post("/v1/gc", s.collect)
	get("/v1/gc", s.lastCollect)
	if s.Shutdown != nil {
		post("/v1/shutdown", s.shutdown)
	}
	get("/healthz", s.healthz)
	get("/readyz", s.readyz)
	get("/metrics", s.serveMetrics())
	get("/openapi.yaml", s.openAPI)
}

// on registers routes of one method.
func (s *Server) on(method string) func(pattern string, h handler, query ...string) {
	return func(pattern string, h handler, query ...string) {
		s.router.Method(method, pattern, s.handle(checked(h, query)))
	}
}
