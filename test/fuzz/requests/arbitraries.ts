/**
 * Requests that no client should send: valid ones with fields broken, replaced and added, headers that lie, bodies that are
 * cut or trickle in, readers that go away. A request is bytes, so that what no HTTP client would write can be sent too.
 */
import fc from "fast-check";
import { limits } from "../../../shared/contracts/limits.ts";
import { weighted } from "../../support/weighted.ts";
import { largeObject, largeParts, largeValue, withLargeParts } from "./large-values.ts";

/** How the bytes are sent and the answer is read. */
export type Delivery =
  /** The request is sent at once, the answer read to its end. */
  | { kind: "whole" }
  /** The request is sent in pieces with pauses, the answer read to its end. */
  | { kind: "slow"; pieces: number; pauseMs: number }
  /** Only this share of the request is sent; then the connection is closed. */
  | { kind: "cut-request"; share: number; waitMs: number }
  /** The request is sent at once; the connection is closed after this many bytes of the answer. */
  | { kind: "cut-answer"; bytes: number }
  /** The request is sent at once; the connection is closed after `waitMs`. Until then the answer is read if `isReading`. */
  | { kind: "leaves"; waitMs: number; isReading: boolean };

export interface BadRequest {
  head: string;
  body: Uint8Array;
  delivery: Delivery;
}

const printed = (text: string) => new TextEncoder().encode(text);

const completion = { model: "gpt2:auto", prompt: "If Tom has 5 apples", max_tokens: 2, temperature: 0, stream: false };
/** Valid bodies by route. */
const validBodies: Record<string, object> = {
  "/v1/completions": completion,
  "/v1/chat/completions": { model: "gpt2:auto", messages: [{ role: "user", content: "Hello" }], max_tokens: 2 },
  "/v1/responses": { model: "gpt2:auto", input: [{ role: "user", content: "Hello" }], max_output_tokens: 2 },
  "/v1/embeddings": { model: "gpt2", input: ["Hello"], dimensions: 8, encoding_format: "float" },
  "/v1/assign": { model: "gpt2:auto", input: ["Hello", "there"], top: 3 },
};
/** Fields that make an answer, within a few tokens, as large as a request may ask for. */
const largestAnswers: Record<string, object> = {
  "/v1/completions": { n: 16, max_tokens: 8, logprobs: 5, echo: true },
  "/v1/chat/completions": { n: 16, max_tokens: 8, logprobs: true, top_logprobs: 20, chameleon: { compare: true } },
  "/v1/responses": { max_output_tokens: 48, top_logprobs: 20, chameleon: { compare: true } },
  "/v1/embeddings": { input: Array(200).fill("Hello") },
  "/v1/assign": { input: Array(64).fill("Hello"), top: 16 },
};
const knownFields = [
  ...`model prompt max_tokens n stream stop seed logprobs echo top_p top_k min_p user min_tokens ignore_eos stop_token_ids
    repetition_penalty temperature presence_penalty frequency_penalty logit_bias best_of suffix stream_options chameleon
    messages input dimensions encoding_format top top_logprobs max_completion_tokens instructions max_output_tokens include
    text metadata background previous_response_id tools tool_choice functions response_format modalities audio
    __proto__ constructor toString`.split(/\s+/),
  ...["", "a".repeat(300)],
];

const oddText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }),
  fc.constantFrom("", "\u0000", "\ud800", "<|endoftext|>", "🦎".repeat(40), "\u0085\u2028", "../../etc/passwd"),
  fc.constantFrom("a", " ", "\n", "é").map((one) => one.repeat(20_000)),
);
const oddNumber = fc.oneof(
  fc.constantFrom(-1, 0, 0.5, 2, 17, 129, 1e9, -1e9, 1e308, Number.MAX_SAFE_INTEGER, 2 ** 32, 4096, 50_257, 1e-320),
  fc.integer(),
  fc.double({ noNaN: true, noDefaultInfinity: true }),
);
const oddList = fc.oneof(
  fc.array(oddNumber, { maxLength: 40 }),
  fc.array(oddText, { maxLength: 6 }),
  fc.integer({ min: 1, max: 3000 }).map((length) => Array(length).fill(1)),
  fc.integer({ min: 1, max: 2000 }).map((depth) => nested(depth)),
);
const emptyCall = { role: "assistant", content: null, tool_calls: [{}] };
/** Conversations that are nearly valid. */
const oddMessages = fc.array(
  fc.oneof(
    fc.record({
      role: fc.constantFrom<unknown>("user", "assistant", "system", "developer", "tool", "constructor", 1),
      content: fc.oneof(
        oddText,
        fc.constantFrom<unknown>(null, {}, [], [{ type: "image_url" }], [null], [{ type: "text" }]),
        fc.array(
          oddText.map((text) => ({ type: "text", text })),
          { maxLength: 3 },
        ),
      ),
    }),
    fc.constantFrom<unknown>(...[null, "hi", []], emptyCall, { type: "function_call" }),
  ),
  { maxLength: 300, size: "small" },
);
/** Functions that are nearly valid, as a chat or a response declares them. */
const oddFunction = fc.record(
  {
    name: fc.oneof(fc.constantFrom<unknown>("f", "get_a", "a b", "__proto__", "f".repeat(65), null), oddText),
    description: fc.oneof(oddText, fc.constantFrom<unknown>(null, 1)),
    parameters: fc.constantFrom<unknown>(null, [], { type: "object" }, { type: "object", properties: { a: [] } }, {}),
  },
  { requiredKeys: [] },
);
const oddTools = fc.array(
  fc.oneof(
    oddFunction.map((one) => ({ type: "function", function: one })),
    oddFunction.map((one) => ({ type: "function", ...one })),
    fc.constantFrom<unknown>(null, { type: "custom" }, { type: "file_search" }),
  ),
  { maxLength: 140, size: "small" },
);
const namedFunction = { type: "function", name: "f" };
const oddChoice = fc.constantFrom<unknown>("required", "any", namedFunction, { type: "function" }, []);
/** Lists of experts that are nearly valid. */
const oddExpert = fc.record({
  id: fc.oneof(fc.constantFrom("base", "c0", "c1", "c2"), oddText),
  weight: fc.constantFrom<unknown>(undefined, null, 1, 0, -1, "1"),
});
const oddWish = fc.record({
  adapter: fc.array(oddExpert, { maxLength: 5 }),
  evidence_tokens: oddNumber,
  retrieve: oddNumber,
});
const oddValue = fc.oneof(
  fc.constantFrom(null, true, false),
  oddWish,
  largeValue,
  largeObject,
  oddNumber,
  oddText,
  oddList,
  oddMessages,
  oddTools,
  oddChoice,
  fc.jsonValue({ maxDepth: 3 }),
  fc.dictionary(fc.constantFrom(...knownFields, "1", "50256"), fc.oneof(oddNumber, fc.constant(true)), { maxKeys: 5 }),
);

/** A valid JSON body with some fields changed. JSON.stringify escapes lone surrogates, so the text remains valid JSON. */
const changedBody = fc
  .record({
    valid: fc.constantFrom(...Object.entries(validBodies)),
    changes: fc.array(fc.tuple(fc.constantFrom(...knownFields), fc.option(oddValue, { nil: undefined })), {
      maxLength: 3,
    }),
    stream: fc.boolean(),
    isLargest: fc.integer({ min: 0, max: 12 }),
    large: fc.record({
      isOne: fc.integer({ min: 0, max: 20 }),
      field: fc.constantFrom(...knownFields),
      part: fc.constantFrom(...Object.keys(largeParts)),
    }),
  })
  .map(({ valid: [path, body], changes, stream, isLargest, large }) => {
    const changed: Record<string, unknown> = Object.assign(Object.create(null), body);
    if (path.endsWith("completions")) changed.stream = stream;
    // One request in thirteen asks for the largest answer that is allowed.
    if (isLargest === 0) Object.assign(changed, largestAnswers[path]);
    for (const [field, value] of changes) changed[field] = value;
    if (large.isOne === 0) changed[large.field] = `@large:${large.part}:900000`;
    return { path, text: withLargeParts(JSON.stringify(changed)) };
  });

/** Turns a body's text into bytes: mostly unchanged, otherwise cut, replaced or lengthened. */
type Damage = (text: string) => Uint8Array;
function cutTo(part: number): Damage {
  return (text) => printed(text.slice(0, part * text.length));
}
function replacedBy(bytes: Uint8Array): Damage {
  return () => new Uint8Array(bytes);
}
function endingIn(end: Uint8Array): Damage {
  return (text) => Buffer.concat([printed(text), end]);
}
const share = fc.double({ min: 0, max: 1, noNaN: true });
const otherBodies = ["[]", "null", "1", '"x"', "", "{}", '{"prompt":1,"prompt":"a"}', "\ufeff{}"];
const damage: fc.Arbitrary<Damage> = weighted(
  [120, fc.constant<Damage>(printed)],
  [10, share.map(cutTo)],
  [10, fc.uint8Array({ maxLength: 300 }).map(replacedBy)],
  [10, fc.uint8Array({ minLength: 1, maxLength: 4 }).map(endingIn)],
  [10, fc.constantFrom(...otherBodies).map((other) => replacedBy(printed(other)))],
  [1, fc.constant<Damage>((text) => printed(`${text.slice(0, -1)}${" ".repeat(limits.bodyBytes)}}`))],
);

const served = "/ /healthz /readyz /v1/models /v1/models/gpt2 /v1/centroids /v1/usage /openapi.json /docs /docs/api";
const odd = `/v1//completions /v1/completions/ /v1/completions?x=1 /v1/../artifacts/manifest.json /artifacts/manifest.json
  /v1/models/%00 /v1/models/%ff /%2e%2e/%2e%2e * //x /v1/batches /metrics http://other/v1/models`;
const paths = weighted(
  [3, fc.constantFrom(...served.split(" "))],
  [3, fc.constantFrom(...odd.split(/\s+/))],
  [3, fc.webPath().map((path) => `/v1/${path.slice(0, 200)}`)],
  [1, fc.integer({ min: 100, max: 20_000 }).map((length) => `/${"a".repeat(length)}`)],
);
/** CONNECT is left out: no network in front of the Worker lets it through, and a bare workerd fails on it. */
const methods = fc.constantFrom("POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "post", "FROB");

const oddHeaders = fc.oneof(
  fc.constantFrom(
    "x-chameleon-tenant: other",
    "x-chameleon-centroid: c1",
    "x-request-id: ../../x",
    "x-forwarded-for: 127.0.0.1",
    "cf-connecting-ip: 127.0.0.1",
    "traceparent: 00-00000000000000000000000000000000-0000000000000000-01",
    `traceparent: ${"f".repeat(5000)}`,
    "tracestate: =,=;\u00e9",
    "content-encoding: gzip",
    "expect: 100-continue",
    "upgrade: websocket",
    "connection: upgrade",
    "host: edge\r\nhost: other",
    "origin: http://edge",
    "origin: http://other",
    "x-deadline-ms: 1",
    `x-deadline-ms: ${"9".repeat(400)}`,
    "cf-connecting-ip: 2001:db8::1",
    "cf-connecting-ip: ::1, ::2",
    "sec-fetch-site: cross-site",
    "range: bytes=0-1",
    "accept-encoding: identity;q=0",
    "if-none-match: *",
    "origin: null",
    "x-http-method-override: DELETE",
    "host: other",
    "transfer-encoding: chunked",
    "transfer-encoding: chunked, identity",
    "content-length: 5",
    "content-length: -1",
    "content-length: 99999999999",
    "content-length: x",
    "no colon at all",
    ": no name",
    "bad name: x",
    " folded: x",
  ),
  fc.integer({ min: 100, max: 40_000 }).map((length) => `x-long: ${"a".repeat(length)}`),
  fc
    .integer({ min: 10, max: 400 })
    .map((count) => Array.from({ length: count }, (_, i) => `x-many-${i}: y`).join("\r\n")),
  fc.string({ unit: "binary", maxLength: 30 }).map((text) => `x-odd: ${text.replace(/[\r\n]/g, "")}`),
);
/** The valid key, with other capitals and spaces in the header. */
const otherSpellings = (key: string) =>
  fc
    .tuple(
      fc.constantFrom("authorization", "Authorization", "AUTHORIZATION", "aUTHORIZATION"),
      fc.constantFrom("Bearer", "bearer", "BEARER", "bEaReR"),
      fc.constantFrom(" ", "  ", "\t", " ".repeat(200)),
      fc.constantFrom("", " ", "\t"),
    )
    .map(([name, scheme, gap, end]) => `${name}: ${scheme}${gap}${key}${end}`);
const wrongKeys = (key: string) =>
  fc.constantFrom(
    "",
    "authorization: Bearer",
    "authorization: Bearer sk-wrong",
    `authorization: Bearer ${key}\r\nauthorization: Bearer sk-wrong`,
    `authorization: Basic ${key}`,
    `authorization: Bearer ${key} x`,
    `authorization: Bearer ${"k".repeat(8000)}`,
  );
const authorization = (key: string) =>
  weighted([12, fc.constant(`authorization: Bearer ${key}`)], [2, otherSpellings(key)], [1, wrongKeys(key)]);
const otherTypes = ["text/plain", "application/json; charset=utf-16", "multipart/form-data; boundary=x", ";"];
const contentType = weighted(
  [12, fc.constant("content-type: application/json")],
  [1, fc.constantFrom("", ...otherTypes.map((type) => `content-type: ${type}`))],
);

const between = (min: number, max: number) => fc.integer({ min, max });
const kind = <K extends Delivery["kind"]>(name: K) => fc.constant(name);
const delivery: fc.Arbitrary<Delivery> = weighted(
  [20, fc.constant<Delivery>({ kind: "whole" })],
  [1, fc.record({ kind: kind("slow"), pieces: between(2, 6), pauseMs: between(0, 30) })],
  [2, fc.record({ kind: kind("cut-request"), share, waitMs: between(0, 50) })],
  [2, fc.record({ kind: kind("cut-answer"), bytes: between(0, 2000) })],
  [2, fc.record({ kind: kind("leaves"), waitMs: between(0, 3000), isReading: fc.boolean() })],
);

/** One bad request. `key` is a valid key of the edge. */
export function badRequests(key: string): fc.Arbitrary<BadRequest> {
  return fc
    .record({
      body: changedBody,
      damage,
      elsewhere: fc.tuple(methods, paths),
      isElsewhere: fc.integer({ min: 0, max: 6 }),
      authorization: authorization(key),
      contentType,
      odd: fc.array(oddHeaders, { maxLength: 2 }),
      isOdd: fc.integer({ min: 0, max: 3 }),
      delivery,
    })
    .map(({ body, damage, elsewhere, isElsewhere, authorization, contentType, odd, isOdd, delivery }) => {
      const bytes = damage(body.text);
      const [method, path] = isElsewhere === 0 ? elsewhere : ["POST", body.path];
      const length = `content-length: ${bytes.byteLength}`;
      const headers = ["host: edge", "connection: close", authorization, contentType, length];
      if (isOdd === 0) headers.push(...odd);
      const head = `${method} ${path} HTTP/1.1\r\n${headers.filter(Boolean).join("\r\n")}\r\n\r\n`;
      return { head, body: bytes, delivery };
    });
}

function nested(depth: number): unknown {
  let value: unknown = 1;
  for (let i = 0; i < depth; i++) value = [value];
  return value;
}
