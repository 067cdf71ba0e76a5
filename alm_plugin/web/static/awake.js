// Keeps the screen on. Browsers allow it over https and on the machine itself, not on a plain address of a network.

export function keepAwake(tell) {
  if (!("wakeLock" in navigator)) {
    tell("This browser does not let the page keep the screen on here: switch the screen's time-out off.");
    return;
  }
  const ask = async () => {
    if (document.visibilityState !== "visible") return;
    try {
      await navigator.wakeLock.request("screen");
      tell("The screen stays on while this page is in front.");
    } catch {
      tell("The browser did not let the page keep the screen on: switch the screen's time-out off.");
    }
  };
  document.addEventListener("visibilitychange", ask);
  ask();
}
