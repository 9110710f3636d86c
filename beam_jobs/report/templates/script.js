"use strict";
const form = document.getElementById("filter");
const update = () => {
  const group = form.elements.group ? form.elements.group.value : "";
  const split = form.elements.split.value;
  let seen = 0;
  for (const part of document.querySelectorAll("#gallery .group")) {
    let any = 0;
    for (const figure of part.querySelectorAll("figure")) {
      figure.hidden = split !== "" && figure.dataset.split !== split;
      any += figure.hidden ? 0 : 1;
    }
    part.hidden = any === 0 || (group !== "" && part.dataset.group !== group);
    seen += part.hidden ? 0 : any;
  }
  form.querySelector("output").textContent = seen + (seen === 1 ? " picture" : " pictures");
};
form.hidden = false;
form.addEventListener("input", update);
form.addEventListener("submit", (event) => event.preventDefault());
