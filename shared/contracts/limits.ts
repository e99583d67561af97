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
  /** Levels of lists and objects within each other, the body itself included. */
  bodyNesting: 64,
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
  modalities: 8,
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
  /** Adapters that one answer may be a mixture of, beside the base. */
  mixtureAdapters: 3,
  /** Sequences of one micro-batch. */
  sequencesPerBatch: 128,
} as const;
