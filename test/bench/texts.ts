/** Prompts whose greedy answers show what guesses of the next tokens gain. */
import { embeddedTokenizer } from "./embedded-tokenizer.ts";

const functions = `def total(prices):
    result = 0
    for price in prices:
        result += price
    return result

def mean(values):
    result = 0
    for value in values:
        result += value
    return result / len(values)

def total_of_squares(values):`;
/** The answers to the first three repeat parts of the prompt or of themselves. */
const prompts = {
  code: functions,
  form: `Name: Ada Lovelace\nBorn: 1815 in London\nKnown for: the first program\n\nName: Alan Turing\nBorn: 1912 in London\nKnown for: the Turing machine\n\nName: Grace Hopper`,
  extraction: `Dear Ms Keller,\nplease send the parcel to Anna Lindqvist, Storgatan 12, 903 26 Umeå, Sweden. Her telephone number is +46 90 123 45 67.\nThe invoice goes to Lindqvist & Daughters, Box 88, 903 26 Umeå, Sweden.\n\nThe addresses in this letter, each on a line of its own:\n1. Anna Lindqvist, Storgatan 12,`,
  story: "It was late in the evening when the old fisherman came home. The wind had",
  explanation: "Photosynthesis is the process by which",
  application: "Dear Sir or Madam,\n\nI am writing to apply for the position of librarian. I have",
};

export interface Text {
  name: string;
  promptIds: number[];
  tokens: number;
}

/** In the tokens of the embedded base. */
export async function benchTexts(): Promise<Text[]> {
  const tokenizer = await embeddedTokenizer();
  return Object.entries(prompts).map(([name, text]) => {
    return { name, promptIds: [...tokenizer.encode(text)], tokens: 96 };
  });
}
