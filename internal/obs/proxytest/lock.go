package proxytest

import (
	"encoding/xml"
	"net/http"
	"time"
)

// extend sets the retention of an object: OBS takes it in COMPLIANCE
// mode only, in milliseconds, and never shorter than it is.
func (p *Proxy) extend(body []byte, seen *Request) *refusal {
	var doc struct {
		XMLName         xml.Name `xml:"Retention"`
		Mode            string
		RetainUntilDate int64
	}
	if err := xml.Unmarshal(body, &doc); err != nil {
		return refuse(http.StatusBadRequest, "MalformedXML", "The XML you provided was not well-formed: "+err.Error())
	}
	at, now := time.UnixMilli(doc.RetainUntilDate), p.opts.Now()
	if !p.opts.WORM || doc.Mode != "COMPLIANCE" || !at.After(now) {
		return refuse(http.StatusBadRequest, "InvalidRequest", "The retention you specified is not valid, or the bucket has no WORM.")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	name := seen.Bucket + "/" + seen.Key
	if at.Before(p.locked[name]) {
		return refuse(http.StatusForbidden, "AccessDenied", "The retention can't be made shorter.")
	}
	seen.Status = http.StatusOK
	if !p.opts.IgnoreLock {
		p.locked[name] = at
	}
	return nil
}
