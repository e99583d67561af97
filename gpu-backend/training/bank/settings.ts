/** Settings of training. */

export interface BankSettings {
  seed: number;
  clusters: number; // K
  /** Low-rank directions of the static adapter; it has one bias direction, too. */
  staticRank: number;
  rank: number; // R, of the hyper-network's directions
  biases: number; // M
  hidden: number; // H
  dimensions: number; // P
  /** Of the hyper-network; the static adapter takes half as many at each learning rate that is tried. */
  steps: number;
  /** Of the hyper-network. */
  learningRate: number;
  weightDecay: number;
}

/** How much text a bank is trained on, in windows of 256 tokens at most. */
export interface TextSettings {
  trainWindows: number;
  validationWindows: number;
  testWindows: number;
}

/** Settings of the embedded artifacts. */
export const embeddedSettings: BankSettings & TextSettings = {
  ...{ seed: 1, clusters: 24, staticRank: 16, rank: 96, biases: 8, hidden: 32, dimensions: 64 },
  ...{ steps: 250, learningRate: 1.5e-3, weightDecay: 0.3 },
  ...{ trainWindows: 1600, validationWindows: 240, testWindows: 240 },
};
