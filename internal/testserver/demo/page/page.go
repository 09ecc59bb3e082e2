// Package page is what the demo looks like, as files.
package page

import "embed"

//go:embed *.html assets
var Files embed.FS
