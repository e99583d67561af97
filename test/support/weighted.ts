import fc from "fast-check";

/** Draws each arbitrary as often as its weight says. */
export function weighted<T extends unknown[]>(
  ...choices: { [i in keyof T]: [weight: number, arbitrary: fc.Arbitrary<T[i]>] }
): fc.Arbitrary<T[number]> {
  return fc.oneof(...choices.map(([weight, arbitrary]) => ({ weight, arbitrary }))) as fc.Arbitrary<T[number]>;
}
