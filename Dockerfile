# Two images of one static binary each: the server (the default) and the example processor (--target increment).

FROM golang:1.26-alpine AS build
# Behind a module proxy of your own: --build-arg GOPROXY=https://… (and GOSUMDB, GOFLAGS).
ARG GOPROXY
ARG GOSUMDB
ARG GOFLAGS
ARG VERSION
ENV CGO_ENABLED=0
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN go build -trimpath -ldflags "-s -w -X main.built=$VERSION" -o /out/server ./cmd/server \
 && go build -trimpath -ldflags "-s -w" -o /out/increment ./examples/increment

FROM scratch AS increment
COPY --from=build /out/increment /increment
USER 65532:65532
EXPOSE 9090
ENTRYPOINT ["/increment"]

FROM scratch AS server
# For webhooks to https addresses.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/server /server
USER 65532:65532
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=60s --retries=3 CMD ["/server", "healthcheck"]
ENTRYPOINT ["/server"]
