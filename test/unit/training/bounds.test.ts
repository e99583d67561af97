import { expect, test } from "vitest";
import { type TrainOptions, train } from "../../../gpu-backend/training/train.ts";

test.each<[Partial<TrainOptions>, RegExp]>([
  [{ clusters: 1025 }, /centroids: 1025.* 1024/],
  [{ rank: 4096, biases: 0 }, /gates: 4097.* 4096/],
])("%j, which no manifest can hold, is refused before anything is read", async (change, message) => {
  const sizes = { clusters: 4, staticRank: 0, rank: 4, biases: 0, hidden: 8, dimensions: 8 };
  const fits = { ...sizes, corpora: [], outDirectory: "/nowhere" };
  await expect(train({ ...fits, ...change } as unknown as TrainOptions, undefined as never)).rejects.toThrow(message);
});
