/**
 * Makes the OpenAPI 3.1 document from operations, schemas, limits and errors. The document is a static asset, so that the Worker has no
 * code for it. Pure.
 */
import { z } from "zod";
import { limitTable } from "../../shared/contracts/limits.ts";
import { type ErrorKind, envelopeOf, ServiceError, statusOf } from "../../shared/errors.ts";
import { contracts, type Operation, operations, type SchemaName } from "./operations.ts";

const anyRoute: ErrorKind[] = ["method_not_allowed", "url_too_long", "headers_too_large", "internal"];
const anyWithKey: ErrorKind[] = ["unauthorized", "forbidden"];
const anyOfAdmin: ErrorKind[] = ["rate_limited", "backend_unavailable"];
const anyWithBody: ErrorKind[] = [
  "invalid_request",
  "idempotency_conflict",
  "body_too_slow",
  "body_too_large",
  "unsupported_media_type",
];
const withRetryAfter: ErrorKind[] = ["rate_limited", "quota_exceeded", "overloaded", "backend_unavailable"];

const introduction = `A small language model behind OpenAI's API. Each prompt is answered by a mixture of the base and generated adapters.
Set an OpenAI client's base URL and key to use it. Unlisted fields are ignored; a field that is \`null\` counts as absent.

**The extension.** Requests may say \`chameleon: {adapter, compare, sources, retrieve, evidence_tokens}\`. If they do, even with an empty object, each choice tells
under \`chameleon\` which experts answered with which weights, what they gained on the prompt's own tokens, and apart from that what the nearest centroid's adapter gained on held-out text.

**Evidence.** By default an answer's logits are a weighted mean of those of the base, of an adapter for every text and of the nearest centroids' adapters.
How well each predicts the prompt's own tokens sets the weights, once: what is generated never changes them. The base
keeps a floor, and the log-probability of a token is at least the weighted mean of the experts'. \`temperature\`, penalties and
\`logit_bias\` act on the mixture's logits, and \`logprobs\` are of them. A template's own text in a chat is no evidence. The prompt's tokens that are evidence
are scored by the base where \`echo\` and \`logprobs\` ask for them; with \`evidence_tokens: N\` those after the first N as a continuation would be.
Usage counts a mixture at its nearest centroid, or at an adapter of your own where it has one.

**Memories.** An adapter of your own may have documents. By default the three adapters of your own nearest to a prompt join its mixture: what was fitted
to their examples as experts, and their documents as memories, whose nearest passages make the words that follow them there likelier. The prompt's own tokens
choose how much a memory counts, and the model keeps at least a tenth of each token's probability. \`chameleon: {sources: true}\` names the passages behind each token,
and \`retrieve: 2\` puts the two passages nearest to the prompt into it, cited and counted as prompt tokens.

**Streams** are server-sent events that end with \`data: [DONE]\`; comments keep them alive. If the service fails during a stream, the
last event before \`[DONE]\` is an error.

**Errors** have OpenAI's envelope and name the limit and the value.

<details><summary>Limits on requests and responses: ${Object.keys(limitTable).length}</summary>

| Name | Maximum | Unit | Applies to |
| --- | --: | --- | --- |
${Object.entries(limitTable)
  .map(([name, [value, unit, bounds]]) => `| \`${name}\` | ${value} | ${unit === "value" ? "–" : unit} | ${bounds} |`)
  .join("\n")}

</details>`;

const headers = {
  "x-request-id": {
    description: "Identifies the request in logs; the `id` of a completion ends in the same digits",
    schema: { type: "string" },
  },
  "server-timing": { description: "Milliseconds of each phase", schema: { type: "string" } },
  "retry-after": { description: "Seconds", schema: { type: "integer", minimum: 0 } },
  ...Object.fromEntries(
    ["requests", "tokens"].flatMap((what) =>
      ["limit", "remaining", "reset"].map((which) => [
        `x-ratelimit-${which}-${what}`,
        { description: `Limit of ${what} per minute, if the tenant has one`, schema: { type: "string" } },
      ]),
    ),
  ),
};
const headerRefs = (names: readonly string[]) =>
  Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
const always = ["x-request-id", "server-timing"];
const rateLimits = Object.keys(headers).filter((name) => name.startsWith("x-ratelimit-"));

const schemaRef = (name: SchemaName) => ({ $ref: `#/components/schemas/${name}` });

export function openApiDocument(version: string) {
  const paths: Record<string, Record<string, object>> = {};
  for (const operation of operations) {
    paths[operation.path] ??= {};
    paths[operation.path][operation.method] = operationObject(operation);
  }
  const tags = [...new Set(operations.map(({ tag }) => tag))].map((name) => ({ name }));
  return {
    openapi: "3.1.0",
    info: {
      title: "Chameleon Edge",
      version,
      description: introduction,
      license: { name: "MIT", identifier: "MIT" },
    },
    servers: [{ url: "/" }],
    tags,
    security: [{ key: [] }],
    paths,
    components: {
      securitySchemes: {
        key: { type: "http", scheme: "bearer", description: "A tenant's key, as `chameleon keys` makes them" },
        adminKey: { type: "http", scheme: "bearer", description: "The deployment's admin key, which no tenant has" },
      },
      headers,
      schemas: schemaObjects(),
    },
  };
}

/** Describes fields as clients send them. zod leaves out defaults of fields with a transform, so this adds them. */
const asWritten = {
  io: "input",
  override({ zodSchema, jsonSchema }) {
    const fallback = z.globalRegistry.get(zodSchema)?.default;
    if (fallback !== undefined) jsonSchema.default = fallback;
    // zod bounds every integer to the safe integers.
    if (jsonSchema.minimum === Number.MIN_SAFE_INTEGER) delete jsonSchema.minimum;
    if (jsonSchema.maximum === Number.MAX_SAFE_INTEGER) delete jsonSchema.maximum;
  },
} satisfies z.core.ToJSONSchemaParams;

function schemaObjects(): Record<string, object> {
  const registry = z.registry<{ id: string }>();
  for (const [name, schema] of Object.entries(contracts)) {
    if (!name.endsWith("Schema") || !(schema instanceof z.ZodType)) continue;
    registry.add(schema, { id: `${name[0].toUpperCase()}${name.slice(1, -"Schema".length)}` });
  }
  const made = z.toJSONSchema(registry, { ...asWritten, uri: (id) => `#/components/schemas/${id}` });
  return Object.fromEntries(
    Object.entries(made.schemas).map(([name, { $schema, $id, ...schema }]) => [name, schema as object]),
  );
}

function operationObject(operation: Operation): object {
  const { id, tag, summary, description, scope, query, parameters: path = [], request, response, events } = operation;
  const { status = 200, mayBeLater } = operation;
  const [hasKey, isAdmin] = [scope !== undefined, scope === "admin"];
  const errors = [
    ...anyRoute,
    ...(hasKey ? anyWithKey : []),
    ...(isAdmin ? anyOfAdmin : []),
    ...(request ? anyWithBody.filter((kind) => !isAdmin || kind !== "idempotency_conflict") : []),
    ...(path.length > 0 ? (["not_found"] as const) : []),
    ...(operation.errors ?? []),
  ];
  const parameters = [
    ...path.map((one) => ({ ...one, in: "path", required: true, schema: { type: "string" } })),
    ...Object.entries(query ? z.toJSONSchema(query, asWritten).properties! : {}).map(([name, schema]) => ({
      ...{ name, in: "query", required: false, schema },
    })),
  ];
  const body = operation.method === "put" ? { "application/octet-stream": {} } : request && bodyOf(request);
  const limited = scope && !isAdmin && request ? rateLimits : [];
  const answer = { ...answerOf(response, events), headers: headerRefs([...always, ...limited]) };
  return {
    operationId: id,
    tags: [tag],
    summary,
    ...(description || scope
      ? { description: [description, scope && `Scope: \`${scope}\`.`].filter(Boolean).join("\n\n") }
      : {}),
    ...(hasKey ? (isAdmin ? { security: [{ adminKey: [] }] } : {}) : { security: [] }),
    ...(parameters.length > 0 ? { parameters } : {}),
    ...(body && { requestBody: { required: true, content: body } }),
    responses: { [status]: answer, ...(mayBeLater && { 202: answer }), ...errorResponses(errors) },
  };
}

function bodyOf({ schema, example, files = [], isForm }: NonNullable<Operation["request"]>) {
  return {
    [isForm ? "multipart/form-data" : "application/json"]: { schema: schemaRef(schema), example },
    ...Object.fromEntries(files.map((type) => [type, { schema: { type: "string" } }])),
    ...(files.length > 0 && { "multipart/form-data": { schema: schemaRef(schema) } }),
  };
}

function answerOf(response: Operation["response"], events: SchemaName | undefined) {
  if (typeof response !== "string") {
    const schema = response.media.startsWith("text/") ? { type: "string" } : {};
    return { description: response.description, content: { [response.media]: { schema } } };
  }
  const stream = events && {
    "text/event-stream": {
      schema: { type: "string", description: "Events whose data has the schema `x-event-schema`" },
      // OpenAPI 3.1 cannot describe the content of an event.
      "x-event-schema": schemaRef(events),
    },
  };
  return { description: "Done", content: { "application/json": { schema: schemaRef(response) }, ...stream } };
}

function errorResponses(kinds: readonly ErrorKind[]): Record<string, object> {
  const byStatus = new Map<number, ErrorKind[]>();
  for (const kind of new Set(kinds)) {
    const status = statusOf(kind);
    byStatus.set(status, [...(byStatus.get(status) ?? []), kind]);
  }
  const described = [...byStatus].sort(([a], [b]) => a - b);
  return Object.fromEntries(
    described.map(([status, kinds]) => {
      const envelopes = kinds.map((kind) => ({ kind, body: envelopeOf(new ServiceError(kind, meanings[kind])) }));
      const again = kinds.some((kind) => withRetryAfter.includes(kind)) ? ["retry-after"] : [];
      return [
        status,
        {
          description: kinds.map((kind) => meanings[kind]).join(" "),
          headers: headerRefs([...always, ...again]),
          content: {
            "application/json": {
              schema: schemaRef("Error"),
              examples: Object.fromEntries(envelopes.map(({ kind, body }) => [kind, { value: body }])),
            },
          },
        },
      ];
    }),
  );
}

const meanings: Record<ErrorKind, string> = {
  invalid_request: "A field is missing, has the wrong type, or exceeds its limit.",
  context_length_exceeded: "A prompt is longer than the context.",
  unauthorized: "The key is missing or unknown.",
  bad_signature: "A call between edge and backend has no valid signature.",
  forbidden: "The key does not allow this route or this origin.",
  not_found: "The resource does not exist.",
  model_not_found: "The model does not exist.",
  adapter_not_found: "The adapter does not exist.",
  adapter_outdated: "The adapter was created for other artifacts, and cannot be made again for those that are served.",
  adapter_quota_exceeded:
    "The tenant has the maximum of adapters, files or jobs, of tokens in its documents, or of bytes in its files.",
  memory_not_found: "A backend lacks the documents of an adapter.",
  memory_deleted: "Documents that the answer reads were deleted.",
  method_not_allowed: "The route does not support this method; see the Allow header.",
  version_mismatch: "Edge and backend speak different versions of their contract.",
  manifest_mismatch: "Edge and backend serve different artifacts.",
  misdirected: "A call reached another backend than the one that it names.",
  numerics_mismatch:
    "The backend that began this completion is gone, and no other computes the same bits; send it again.",
  idempotency_conflict: "The Idempotency-Key came with another request before.",
  switch_conflict: "Another publisher switched meanwhile; nothing was switched.",
  body_too_slow: "The body took too long to arrive.",
  body_too_large: "The body exceeds its limit.",
  url_too_long: "The URL exceeds its limit.",
  headers_too_large: "The headers exceed their limit.",
  unsupported_media_type: "The body is of a type that the route does not read.",
  cancelled: "The client disconnected.",
  rate_limited: "Too many requests or tokens per minute, or too many concurrent requests.",
  quota_exceeded: "The month's tokens are used up.",
  overloaded: "All backends are at capacity.",
  internal: "The service failed on this request.",
  generation_failed: "The model cannot compute this completion; it is not retried.",
  backend_unavailable: "No backend can be reached, or limits cannot be checked.",
  deadline_exceeded: "The request did not start before its deadline.",
};
