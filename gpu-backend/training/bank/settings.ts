/** Settings of training. */

export interface BankSettings {
  seed: number;
  clusters: number; // K
  rank: number; // R
  biases: number; // M
  hidden: number; // H
  dimensions: number; // P
  steps: number;
  learningRate: number;
}

/** How much text a bank is trained on, in windows of 256 tokens at most. */
export interface TextSettings {
  trainWindows: number;
  validationWindows: number;
  testWindows: number;
}

/** Settings of the embedded artifacts. */
export const embeddedSettings: BankSettings & TextSettings = {
  ...{ seed: 1, clusters: 16, rank: 96, biases: 8, hidden: 32, dimensions: 64, steps: 800, learningRate: 1e-2 },
  ...{ trainWindows: 16_000, validationWindows: 1000, testWindows: 1000 },
};
