package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/lockstep-dr/lockstep/pkg/store"
)

// status returns the HTTP status of a failed request, or 0.
func status(err error) int {
	var response *smithyhttp.ResponseError
	if errors.As(err, &response) {
		return response.HTTPStatusCode()
	}
	return 0
}

// reason returns the server's code for why a request failed, or nothing.
func reason(err error) string {
	if api := smithy.APIError(nil); errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

// absence drops the error that an object is not there.
func absence(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// classify turns an error of the client into one of the store's. Absence is only what the server states about the
// object itself: a missing bucket, a proxy's 404 or an answer without a reason leave it unknown.
func classify(ctx context.Context, verb, name string, err error) error {
	if err == nil {
		return nil
	}
	if ctxErr := ctx.Err(); ctxErr != nil {
		return fmt.Errorf("%s %q: %w", verb, name, ctxErr)
	}
	code, why := reason(err), err.Error()
	if api := smithy.APIError(nil); errors.As(err, &api) {
		why = code
		if message := api.ErrorMessage(); message != "" {
			why += ": " + message
		}
	}
	kind := store.ErrUnavailable
	switch httpStatus := status(err); {
	case code == "NoSuchKey":
		kind = store.ErrNotFound
	case httpStatus == http.StatusPreconditionFailed:
		kind = store.ErrExists
	case httpStatus == http.StatusRequestedRangeNotSatisfiable:
		kind = io.ErrUnexpectedEOF
	case httpStatus == http.StatusUnauthorized, httpStatus == http.StatusForbidden:
		kind = store.ErrDenied
	}
	return fmt.Errorf("%s %q: %w: %s", verb, name, kind, why)
}
