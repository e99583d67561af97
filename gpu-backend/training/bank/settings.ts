export interface BankSettings {
  seed: number;
  clusters: number; // K
  /** Low-rank directions of the static adapter, which also has one bias direction. */
  staticRank: number;
  /** Directions of the centroids' adapters. */
  rank: number; // R
  biases: number; // M
  hidden: number; // H
  dimensions: number; // P
  /** Steps of the hyper-network. The static adapter takes half as many at each learning rate. */
  steps: number;
  learningRate: number; // of the hyper-network
  weightDecay: number;
}

/** Maximum windows of each split. A window has up to 256 tokens. */
export interface TextSettings {
  trainWindows: number;
  validationWindows: number;
  testWindows: number;
}

export interface MemorySettings {
  /** Maximum tokens of a centroid's memory. 0: no memories. */
  memoryTokens: number;
}

export const embeddedSettings: BankSettings & TextSettings & MemorySettings = {
  ...{ seed: 1, clusters: 24, staticRank: 16, rank: 96, biases: 8, hidden: 32, dimensions: 64 },
  ...{ steps: 250, learningRate: 1.5e-3, weightDecay: 0.3 },
  ...{ trainWindows: 1600, validationWindows: 240, testWindows: 240, memoryTokens: 8192 },
};
