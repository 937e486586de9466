// The slider over the iterations of a training: it changes the picture and moves a line through the curves.
function timeSlider(box) {
  const frames = JSON.parse(box.querySelector("script").textContent), slider = box.querySelector("input"), image = box.querySelector("img");
  const show = () => {
    const [iteration, address] = frames[slider.value];
    image.src = address;
    box.querySelector("output").textContent = slider.ariaValueText = iteration;
    document.querySelectorAll(".curve .now").forEach((now) => {
      const { from, to } = now.dataset, at = 52 + ((iteration - from) / (to - from || 1)) * 258;
      now.setAttribute("d", at >= 52 && at <= 310 ? `M${at} 14V114` : "");
    });
  };
  slider.addEventListener("input", show);
  image.src = frames[slider.value][1];
  box.querySelector("output").textContent = slider.ariaValueText = frames[slider.value][0];
}
document.querySelectorAll(".time").forEach(timeSlider);
