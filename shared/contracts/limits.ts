/**
 * Limits of the public API. The edge enforces them; the backend rechecks those of the inference contract. The API document
 * shows the table; code uses the numbers in `limits`.
 */

type Unit = "bytes" | "characters" | "chunks" | "days" | "entries" | "levels" | "milliseconds" | "tokens" | "value";

interface Limit {
  /** The largest accepted value. */
  value: number;
  unit: Unit;
  /** What the limit applies to, in Markdown without `|`. */
  bounds: string;
}

export const limitTable = {
  urlCharacters: { value: 4096, unit: "characters", bounds: "The URL" },
  headerCharacters: { value: 16_384, unit: "characters", bounds: "Names and values of all headers together" },
  bodyMs: { value: 30_000, unit: "milliseconds", bounds: "Time to receive the body" },
  bodyBytes: { value: 1_048_576, unit: "bytes", bounds: "The body, and so each text and list in it" },
  bodyChunks: { value: 4096, unit: "chunks", bounds: "Chunks in which the body arrives: each takes CPU time" },
  bodyNesting: { value: 64, unit: "levels", bounds: "Nested lists and objects, the body included" },
  // Strings that collide stay in V8's table between requests: with 4,096, a body took up to 200 ms behind eight others.
  digitStrings: {
    value: 1024,
    unit: "entries",
    bounds: "Strings of 1 to 10 digits in the body, keys included: they are slow to parse",
  },
  bodyBytesAtOnce: {
    value: 8_388_608,
    unit: "bytes",
    bounds: "Bodies of one key that one isolate reads concurrently; a body of undeclared length counts as the maximum",
  },
  keyLookupsPerMinute: {
    value: 30,
    unit: "entries",
    bounds: "API keys that an isolate has not cached and that one network may send in a minute",
  },
  queuedSequences: {
    value: 2048,
    unit: "entries",
    bounds: "Sequences that wait at one cell; a tenant may have as many as it leaves free",
  },
  idempotencyKeyCharacters: { value: 255, unit: "characters", bounds: "The header `Idempotency-Key`, printable ASCII" },
  deadlineMs: { value: 600_000, unit: "milliseconds", bounds: "The header `x-deadline-ms`" },
  modelCharacters: { value: 256, unit: "characters", bounds: "`model`" },
  aliases: { value: 64, unit: "entries", bounds: "Model aliases of a tenant, and of a deployment" },
  origins: { value: 64, unit: "entries", bounds: "Web origins of a tenant" },
  originCharacters: { value: 256, unit: "characters", bounds: "Each web origin of a tenant" },
  listedKeys: { value: 10_000, unit: "entries", bounds: "Keys in one list of `/admin/v1/keys`" },
  validKeys: { value: 500, unit: "entries", bounds: "Valid keys of a tenant whose limits, origins or aliases change" },
  userCharacters: { value: 1024, unit: "characters", bounds: "`user`, which is ignored" },
  adapterCharacters: { value: 64, unit: "characters", bounds: "`chameleon.adapter`, and each `id` in it" },
  promptsPerRequest: { value: 32, unit: "entries", bounds: "`prompt` of a completion" },
  choicesPerPrompt: { value: 16, unit: "entries", bounds: "`n`" },
  choicesPerRequest: { value: 128, unit: "entries", bounds: "Prompts × `n`" },
  stopStrings: { value: 4, unit: "entries", bounds: "`stop`" },
  stopCharacters: { value: 128, unit: "characters", bounds: "Each string of `stop`" },
  stopTokenIds: { value: 64, unit: "entries", bounds: "`stop_token_ids`" },
  logitBiasEntries: { value: 300, unit: "entries", bounds: "`logit_bias`" },
  logitBiasMagnitude: { value: 100, unit: "value", bounds: "Each value of `logit_bias`, of either sign" },
  completionLogprobs: { value: 5, unit: "entries", bounds: "`logprobs` of a completion" },
  chatLogprobs: {
    value: 20,
    unit: "entries",
    bounds: "`top_logprobs` of a chat completion or response, `prompt_logprobs`",
  },
  chatMessages: { value: 256, unit: "entries", bounds: "`messages`, or `input` of a response" },
  messageParts: { value: 256, unit: "entries", bounds: "Parts of one message's `content`" },
  formatCharacters: { value: 64, unit: "characters", bounds: "`response_format.json_schema.name`, `text.format.type`" },
  includes: { value: 16, unit: "entries", bounds: "`include` of a response" },
  tools: { value: 128, unit: "entries", bounds: "`tools` of a chat completion or response" },
  toolsBytes: { value: 32_768, unit: "bytes", bounds: "`tools`, as JSON" },
  toolNameCharacters: { value: 64, unit: "characters", bounds: "The name of a function: letters, digits, `_` and `-`" },
  toolCalls: { value: 16, unit: "entries", bounds: "Calls of functions in one answer, and in one message" },
  schemaBytes: {
    value: 16_384,
    unit: "bytes",
    bounds: "`response_format.json_schema.schema` and `parameters` of a function, as JSON",
  },
  schemaDepth: { value: 16, unit: "levels", bounds: "Nested schemas" },
  schemaNodes: {
    value: 512,
    unit: "entries",
    bounds:
      "Schemas within a schema, that itself included; what a `$ref` beside other keywords refers to counts each time",
  },
  schemaValues: { value: 512, unit: "entries", bounds: "Values of every `enum` and `const` of a schema together" },
  schemaItems: {
    value: 256,
    unit: "entries",
    bounds: "`minItems` of a schema; its lists have no more entries where `maxItems` is more",
  },
  schemaStringCharacters: {
    value: 64,
    unit: "characters",
    bounds: "`minLength` of a schema; its texts have no more where `maxLength` is more",
  },
  schemaFormCharacters: { value: 65_536, unit: "characters", bounds: "A schema in the form in which it is served" },
  modalities: { value: 8, unit: "entries", bounds: "`modalities`" },
  temperature: { value: 2, unit: "value", bounds: "`temperature`" },
  penaltyMagnitude: {
    value: 2,
    unit: "value",
    bounds: "`presence_penalty` and `frequency_penalty`, of either sign",
  },
  repetitionPenalty: { value: 10, unit: "value", bounds: "`repetition_penalty`, and its reciprocal" },
  assignTexts: { value: 64, unit: "entries", bounds: "`input` of `/v1/assign`" },
  assignTop: { value: 16, unit: "entries", bounds: "`top` of `/v1/assign`" },
  classifyInputs: { value: 32, unit: "entries", bounds: "`input` of `/v1/classify`" },
  classifyLabels: { value: 64, unit: "entries", bounds: "`labels` of `/v1/classify`" },
  classifyLabelCharacters: { value: 256, unit: "characters", bounds: "Each of `labels`" },
  classifyBranches: { value: 20, unit: "entries", bounds: "Labels that differ in the same token" },
  embeddingInputs: { value: 2048, unit: "entries", bounds: "`input` of `/v1/embeddings`" },
  embeddingTokens: { value: 8192, unit: "tokens", bounds: "Each text of `/v1/embeddings`" },
  adapterNameCharacters: { value: 63, unit: "characters", bounds: "`name` of an adapter" },
  adapterExamples: { value: 1024, unit: "entries", bounds: "`examples` of an adapter" },
  adapterTokens: {
    value: 131_072,
    unit: "tokens",
    bounds: "All examples of an adapter together; tokens of a text beyond the context are not read",
  },
  adapterLearntTokens: {
    value: 16_384,
    unit: "tokens",
    bounds: "Tokens of all examples of an adapter that are learnt: of texts all, else of what the model shall answer",
  },
  adaptersPerTenant: { value: 1024, unit: "entries", bounds: "Adapters of a tenant" },
  filesPerTenant: { value: 1000, unit: "entries", bounds: "Files of a tenant" },
  fileBytes: { value: 4_194_304, unit: "bytes", bounds: "A file of `/v1/files`" },
  tenantFileBytes: {
    value: 134_217_728,
    unit: "bytes",
    bounds: "All files of a tenant together, unless its plan has no limit",
  },
  recordsPerPage: { value: 1000, unit: "entries", bounds: "`limit` of a list of files, jobs or events" },
  tuningJobs: {
    value: 1000,
    unit: "entries",
    bounds: "Fine-tuning jobs of a tenant that are listed; the oldest that has ended makes room",
  },
  openTuningJobs: { value: 64, unit: "entries", bounds: "Fine-tuning jobs of a tenant that have not ended" },
  documentBodyBytes: { value: 33_554_432, unit: "bytes", bounds: "The body of a request with documents" },
  documentBodyMs: {
    value: 120_000,
    unit: "milliseconds",
    bounds: "Time to receive the body of a request with documents",
  },
  documentValues: {
    value: 65_536,
    unit: "entries",
    bounds: "Values in lists and objects of a request with documents: each takes memory beside its text",
  },
  htmlTags: {
    value: 32_768,
    unit: "entries",
    bounds: "Tags of an HTML document: each takes memory and CPU time beside its text",
  },
  htmlNesting: { value: 256, unit: "levels", bounds: "Nested elements of an HTML document that are read" },
  documents: { value: 10_000, unit: "entries", bounds: "Documents of one memory" },
  documentNameCharacters: { value: 256, unit: "characters", bounds: "The name of a document" },
  memoryTokens: { value: 262_144, unit: "tokens", bounds: "All documents of one memory together" },
  memoryTokensAtOnce: {
    value: 16_384,
    unit: "tokens",
    bounds: "Documents that a request waits for; more are a job, answered with 202",
  },
  tenantMemoryTokens: {
    value: 2_000_000,
    unit: "tokens",
    bounds: "All memories of a tenant together, unless its plan says otherwise",
  },
  memoriesPerSequence: { value: 4, unit: "entries", bounds: "Memories that one answer reads" },
  sourcesPerToken: { value: 3, unit: "entries", bounds: "Passages that `chameleon.sources` lists for one token" },
  passageTokens: { value: 256, unit: "tokens", bounds: "Context that one passage of `chameleon.retrieve` takes" },
  retrievedPassages: { value: 4, unit: "entries", bounds: "`chameleon.retrieve`" },
  usageDays: { value: 366, unit: "days", bounds: "Period of one response of `/v1/usage`" },
  usageRowsPerDay: {
    value: 1024,
    unit: "entries",
    bounds: "Models and centroids that a day of `/v1/usage` lists; further use is one row, `(others)`",
  },
  usageRows: { value: 20_000, unit: "entries", bounds: "Rows of one response of `/v1/usage`" },
  mixtureAdapters: { value: 4, unit: "entries", bounds: "Adapters in a list of `chameleon.adapter`, beside the base" },
  expertWeight: { value: 1_000_000, unit: "value", bounds: "Each `weight` in `chameleon.adapter`" },
  wholeLogprobs: {
    value: 65_536,
    unit: "entries",
    bounds:
      "Logprobs of an answer without `stream`: choices × tokens × (1 + alternatives, 1 with `compare`, 4 with `sources`)",
  },
  wholeAnswerBytes: {
    value: 8_388_608,
    unit: "bytes",
    bounds: "An answer without `stream`; a larger one is cancelled",
  },
  unreadBytes: {
    value: 524_288,
    unit: "bytes",
    bounds: "Unread bytes of a stream; the stream is cancelled above this",
  },
  unreadMs: {
    value: 60_000,
    unit: "milliseconds",
    bounds: "Time in which nothing of an answer is read; it is cancelled then",
  },
} as const satisfies Record<string, Limit>;

type LimitName = keyof typeof limitTable;

export const limits = Object.fromEntries(Object.entries(limitTable).map(([name, { value }]) => [name, value])) as {
  readonly [Name in LimitName]: (typeof limitTable)[Name]["value"];
};
