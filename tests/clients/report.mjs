// What every client here does, and how it tells what came of it: one JSON object on stdout, which the tests read.

export const baseURL = process.env.BASE_URL;
export const key = process.env.KEY;
export const say = [{ role: 'user', content: 'Say something.' }];

// A role whose profile does not think: a model of random weights would think until its answer is full.
export const shaped = 'role/quick';

// A schema that leaves a model of random weights no choice but to be short.
export const cities = ['Paris', 'Rome'];

export async function caught(work) {
  try {
    await work();
  } catch (error) {
    return error;
  }
  throw new Error('it was not refused');
}

// The status of a turn whose reader has left, as the cluster saw it.
export async function endOf(receipt) {
  for (let tries = 0; tries < 1000; tries += 1) {
    const answer = await fetch(`${baseURL}/receipts/${receipt}`, { headers: { authorization: `Bearer ${key}` } });
    if (answer.ok) return (await answer.json()).status;
    await new Promise((wake) => setTimeout(wake, 100));
  }
  return 0;
}

export function tell(report) {
  console.log(JSON.stringify(report));
}
