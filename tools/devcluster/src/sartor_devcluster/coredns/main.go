// CoreDNS with the plugins that the DNS of a development cluster is made of, and no others: the standard program links
// clouds, databases and tracers, which cost minutes to compile and are never used here.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	// The order in which a query passes through plugins: the standard program's.
	dnsserver.Directives = []string{
		"bind", "ready", "health", "errors", "loadbalance", "template", "kubernetes",
	}
	coremain.Run()
}
