package api

import "slices"

// Routes lists all calls as "METHOD /path".
func Routes() (list []string) {
	for _, rt := range slices.Concat(contractRoutes, prepareRoutes, agentRoutes, wayOutRoutes, vaultRoutes) {
		list = append(list, rt.method+" "+rt.path)
	}
	return list
}
