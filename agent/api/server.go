package api

import (
	"crypto/tls"
	"log/slog"
	"net/http"
	"time"
)

// Time-outs and limits of a server bound the resources that a slow caller can hold.
const (
	// headerTimeout is for a hundred lines over a bad link; a slow-loris gets no longer.
	headerTimeout = 10 * time.Second
	// readTimeout is for 64 KiB.
	readTimeout = 30 * time.Second
	// writeTimeout covers the Service's time too; streams lift it.
	writeTimeout = time.Minute
	// idleTimeout keeps a control plane's connections between its polls.
	idleTimeout = 2 * time.Minute
	// maxHeaderBytes holds the longest token and what proxies add.
	maxHeaderBytes = MaxTokenBytes + 16<<10
	// maxStreams is the number of calls at once on one HTTP/2 connection.
	maxStreams = 64
)

// NewServer gives a server for h with time-outs and limits set. With cfg it is
// for TLS (ServeTLS with empty file names), version 1.3 unless cfg asks for
// another; cfg is copied. With nil it is for a unix socket. What net/http has to
// say goes to log (nil: nowhere) as warnings. The caller serves and shuts down.
func NewServer(h http.Handler, cfg *tls.Config, log *slog.Logger) *http.Server {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ConnContext:       withPeer,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	if cfg != nil {
		s.TLSConfig = cfg.Clone()
		if s.TLSConfig.MinVersion == 0 {
			s.TLSConfig.MinVersion = tls.VersionTLS13
		}
	}
	return s
}
