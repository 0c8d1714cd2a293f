package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"

	v1 "faultline.dev/faultline/api/faultline/v1alpha1"
)

const (
	// maxBody is how much of an answer is read.
	maxBody = 1 << 20
	// maxRedirects is how many are followed.
	maxRedirects = 5
)

func newHTTP(h *v1.HttpProbe) (func(context.Context) error, error) {
	u, err := url.Parse(h.GetUrl())
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("http.url is %q: wanted http://host/path or https://host/path", h.GetUrl())
	}
	if s := h.GetStatus(); s != 0 && (s < 100 || s > 599) {
		return nil, fmt.Errorf("http.status is %d: wanted 100 to 599", s)
	}
	method := h.GetMethod()
	if method == "" {
		method = http.MethodGet
	}
	if !httpguts.ValidHeaderFieldName(method) { // a token, as a method is
		return nil, fmt.Errorf("http.method is %q: wanted one such as GET", method)
	}
	for k, v := range h.GetHeaders() {
		if !httpguts.ValidHeaderFieldName(k) || !httpguts.ValidHeaderFieldValue(v) {
			return nil, fmt.Errorf("http.headers: %q: %q is not a header", k, v)
		}
	}
	p := &httpProbe{
		url: u.String(), method: method, headers: h.GetHeaders(),
		status: int(h.GetStatus()), contains: []byte(h.GetBodyContains()),
	}
	return p.attempt, nil
}

type httpProbe struct {
	url      string
	method   string
	headers  map[string]string
	status   int
	contains []byte
}

func (p *httpProbe) attempt(ctx context.Context) error {
	what := p.method + " " + p.url
	req, err := http.NewRequestWithContext(ctx, p.method, p.url, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	for k, v := range p.headers {
		if strings.EqualFold(k, "host") {
			req.Host = v
			continue
		}
		req.Header.Set(k, v)
	}
	// A transport of its own, without proxy and without keep-alive: each
	// attempt must meet the network, and none may come from elsewhere.
	transport := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, CheckRedirect: p.redirect}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the outer one repeats method and URL
		}
		return &lateError{what, p.expected(), err}
	}
	defer resp.Body.Close()
	if !p.accepts(resp.StatusCode) {
		return fmt.Errorf("%s: expected %s, got %s", what, p.expected(), resp.Status)
	}
	// The body is part of the answer: a service that stops in the middle of
	// it does not work.
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return &lateError{what, "the whole body", err}
	}
	if !bytes.Contains(body, p.contains) {
		return fmt.Errorf("%s: expected a body that contains %q, got %d bytes without it: %q",
			what, p.contains, len(body), body[:min(len(body), 80)])
	}
	return nil
}

func (p *httpProbe) redirect(_ *http.Request, via []*http.Request) error {
	if p.status >= 300 && p.status < 400 {
		return http.ErrUseLastResponse // the redirect is what is wanted
	}
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	return nil
}

func (p *httpProbe) accepts(status int) bool {
	if p.status != 0 {
		return status == p.status
	}
	return status >= 200 && status < 400
}

func (p *httpProbe) expected() string {
	if p.status != 0 {
		return fmt.Sprintf("status %d", p.status)
	}
	return "a status from 200 to 399"
}
