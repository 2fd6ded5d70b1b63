// Command crd-validation runs the API server's own validation, without an API server: it checks CRDs as
// `kubectl apply` would (structural schema, defaults, CEL compilation and cost) and then objects against them
// (unknown fields, schema, list keys, CEL rules, transition rules).
//
// It reads one JSON request from standard input and writes one JSON response to standard output; exit code 1 means
// that the request itself could not be read.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	v1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	crdvalidation "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	"sigs.k8s.io/yaml"
)

type request struct {
	CRDs  []string `json:"crds"`
	Cases []struct {
		Kind string          `json:"kind"`
		New  json.RawMessage `json:"new"`
		Old  json.RawMessage `json:"old,omitempty"`
	} `json:"cases"`
}

type problem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

type response struct {
	CRDs  map[string][]problem `json:"crds"`
	Cases []result             `json:"cases"`
}

type result struct {
	Errors    []problem      `json:"errors"`
	Defaulted map[string]any `json:"defaulted"`
}

type kind struct {
	structural *schema.Structural
	schema     validation.SchemaValidator
	rules      *cel.Validator
}

func main() {
	var in request
	if err := json.NewDecoder(os.Stdin).Decode(&in); err != nil {
		fail("reading the request", err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	out := response{CRDs: map[string][]problem{}}
	kinds := map[string]kind{}
	for _, path := range in.CRDs {
		name, loaded, problems, err := load(scheme, path)
		if err != nil {
			fail(path, err)
		}
		out.CRDs[name] = problems
		if len(problems) == 0 {
			kinds[name] = loaded
		}
	}
	for _, c := range in.Cases {
		k, found := kinds[c.Kind]
		if !found {
			fail("the case", fmt.Errorf("no good CRD of kind %q", c.Kind))
		}
		out.Cases = append(out.Cases, k.check(c.New, c.Old))
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		fail("writing the response", err)
	}
}

func fail(what string, err error) {
	fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
	os.Exit(1)
}

func load(scheme *runtime.Scheme, path string) (string, kind, []problem, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", kind{}, nil, err
	}
	external := &v1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict(text, external); err != nil {
		return "", kind{}, nil, err
	}
	scheme.Default(external)
	internal := &apiextensions.CustomResourceDefinition{}
	if err := scheme.Convert(external, internal, nil); err != nil {
		return "", kind{}, nil, err
	}
	name := internal.Spec.Names.Kind
	// The API server fills in storedVersions when an object is created.
	internal.Status.StoredVersions = []string{internal.Spec.Versions[0].Name}
	if errs := crdvalidation.ValidateCustomResourceDefinition(context.Background(), internal); len(errs) > 0 {
		return name, kind{}, problems(errs), nil
	}
	props := internal.Spec.Validation
	if props == nil {
		props = internal.Spec.Versions[0].Schema
	}
	structural, err := schema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		return "", kind{}, nil, err
	}
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		return "", kind{}, nil, err
	}
	return name, kind{structural, validator, cel.NewValidator(structural, true, celconfig.PerCallLimit)}, []problem{}, nil
}

// check treats the objects as the API server treats a create (old absent) or an update with strict field validation.
func (k kind) check(newJSON, oldJSON json.RawMessage) result {
	object, unknown, err := k.decode(newJSON)
	if err != nil {
		return result{Errors: []problem{{"", err.Error()}}}
	}
	found := []problem{}
	for _, path := range unknown {
		found = append(found, problem{path, "unknown field"})
	}
	var old map[string]any
	if oldJSON != nil {
		if old, _, err = k.decode(oldJSON); err != nil {
			return result{Errors: []problem{{"", "old: " + err.Error()}}}
		}
	}
	errs := validation.ValidateCustomResource(nil, object, k.schema)
	errs = append(errs, listtype.ValidateListSetsAndMaps(nil, k.structural, object)...)
	if len(errs) == 0 && k.rules != nil {
		var before any
		if old != nil {
			before = old
		}
		broken, _ := k.rules.Validate(context.Background(), nil, k.structural, object, before, celconfig.RuntimeCELCostBudget)
		errs = append(errs, broken...)
	}
	return result{append(found, problems(errs)...), object}
}

func (k kind) decode(text json.RawMessage) (map[string]any, []string, error) {
	var object map[string]any
	// Decodes whole numbers as int64, as the API server does.
	if err := yaml.Unmarshal(text, &object); err != nil {
		return nil, nil, err
	}
	object = runtime.DeepCopyJSON(normalized(object).(map[string]any))
	options := schema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true}
	unknown := pruning.PruneWithOptions(object, k.structural, true, options)
	defaulting.PruneNonNullableNullsWithoutDefaults(object, k.structural)
	defaulting.Default(object, k.structural)
	return object, unknown, nil
}

func normalized(value any) any {
	switch value := value.(type) {
	case map[string]any:
		for key := range value {
			value[key] = normalized(value[key])
		}
	case []any:
		for index := range value {
			value[index] = normalized(value[index])
		}
	case float64:
		if whole := int64(value); float64(whole) == value {
			return whole
		}
	}
	return value
}

func problems(errs field.ErrorList) []problem {
	found := []problem{}
	for _, err := range errs {
		found = append(found, problem{err.Field, err.ErrorBody()})
	}
	return found
}
