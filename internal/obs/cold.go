package obs

import (
	"strings"

	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// coldClasses are the storage classes whose objects a GET does not give until somebody
// restores them, in the words of S3, OBS and other vendors' stores. Google has a class
// of the name ARCHIVE, whose objects can be read at once.
var coldClasses = map[string]bool{
	"GLACIER": true, "DEEP_ARCHIVE": true, // S3, and OBS in the words of S3
	"COLD": true, // OBS
	// others
	"ARCHIVE": true, "COLDARCHIVE": true, "DEEPCOLDARCHIVE": true, "DEEP_COLD_ARCHIVE": true,
}

// coldClass tells whether objects of a storage class have to be restored before they can be read.
func (s *s3Store) coldClass(class string) bool {
	return coldClasses[strings.ToUpper(class)] && !s3utils.IsGoogleEndpoint(*s.client.EndpointURL())
}

// setClass reads the storage class of an object, the state of its restore, and the tier into
// which the server itself moved it. The latter two are "" where the server does not tell.
func (s *s3Store) setClass(in *Info, class, restore, archive string) {
	in.Class = class
	cold := s.coldClass(class) || strings.HasSuffix(archive, "ARCHIVE_ACCESS")
	// ongoing-request="false", expiry-date="…": a copy can be read until then.
	restored := strings.Contains(restore, `ongoing-request="false"`)
	in.Cold = cold && !restored
}
