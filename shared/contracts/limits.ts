/** Every bound on a request, in one table: the edge enforces it, the backend checks it again. */
export const limits = {
  urlCharacters: 4096,
  /** Names and values of all headers of a request. */
  headerCharacters: 16_384,
  /** A body has arrived within so many milliseconds, or is not waited for. */
  bodyMs: 30_000,
  /** The longest wait for a start that a caller may set. */
  deadlineMs: 600_000,
  bodyBytes: 1_048_576,
  promptsPerRequest: 32,
  choicesPerPrompt: 16,
  /** Prompts × n of one request. */
  choicesPerRequest: 128,
  stopStrings: 4,
  stopCharacters: 128,
  logitBiasEntries: 300,
  logitBiasMagnitude: 100,
  completionLogprobs: 5,
  chatLogprobs: 20,
  chatMessages: 256,
  temperature: 2,
  penaltyMagnitude: 2,
  assignTexts: 64,
  embeddingInputs: 2048,
  /** Of one input. */
  embeddingTokens: 8192,
  /** Example texts of one adapter, and the tokens of all of them; what a text has beyond the context is not read. */
  adapterExamples: 64,
  adapterTokens: 8192,
  adaptersPerTenant: 64,
  /** Logprobs that an answer without `stream` may come to: choices × tokens × (1 + alternatives, and 1 with `compare`). */
  wholeLogprobs: 65_536,
  /** Kept of an answer without `stream` until it is complete; above, it is cancelled. */
  wholeAnswerBytes: 8_388_608,
  /** Of a stream, sent and not read; where more is to be sent then, it is cancelled. */
  unreadBytes: 524_288,
  /** Sequences of one micro-batch. */
  sequencesPerBatch: 128,
} as const;
