{{/* Names, labels and what several templates share. */}}

{{- define "spotd.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "spotd.fullname" -}}
{{- if not (or .Values.fullnameOverride (regexMatch "^[a-z][-a-z0-9]*$" .Release.Name)) -}}
{{- fail (printf "a Service cannot be named after the release %q: set fullnameOverride" .Release.Name) -}}
{{- end -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "spotd.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "spotd.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "spotd.selectorLabels" -}}
app.kubernetes.io/name: {{ include "spotd.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "spotd.labels" -}}
{{ include "spotd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Metadata of an object: (dict "root" $ "name" NAME "component" COMPONENT "annotations" MAP "labels" MAP) */}}
{{- define "spotd.metadata" -}}
{{- $root := .root -}}
name: {{ .name }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "spotd.labels" $root | nindent 2 }}
  app.kubernetes.io/component: {{ .component }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := merge (dict) (.annotations | default dict) $root.Values.commonAnnotations }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Selects the pods of one component: (dict "root" $ "component" COMPONENT) */}}
{{- define "spotd.podSelector" -}}
{{ include "spotd.selectorLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "spotd.image" -}}
{{- with .Values.image -}}
{{- $tag := .tag | default (printf "%s%s" $.Chart.AppVersion (ternary "-cuda" "" (or $.Values.gpu.enabled (gt (len $.Values.resourceClaims) 0)))) -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ $tag }}{{ end -}}
{{- end -}}
{{- end -}}

{{- define "spotd.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (ternary (include "spotd.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "spotd.modelPath" -}}
{{- printf "/models/%s" (required "model.path is required: the model below /models" .Values.model.path) -}}
{{- end -}}

{{- define "spotd.selectorPath" -}}
{{- with .Values.model.selectorPath -}}
{{- if hasPrefix "/" . }}{{ . }}{{ else }}/models/{{ . }}{{ end -}}
{{- end -}}
{{- end -}}

{{/* The volume that holds the model, for pods other than the StatefulSet's own claims. */}}
{{- define "spotd.modelVolume" -}}
{{- if eq .Values.model.source "pvc" }}
- name: models
  persistentVolumeClaim:
    claimName: {{ required "model.pvc.claimName is required with model.source pvc" .Values.model.pvc.claimName }}
    readOnly: true
{{- else if eq .Values.model.source "image" }}
- name: models
  image:
    reference: {{ required "model.image.reference is required with model.source image" .Values.model.image.reference }}
    pullPolicy: {{ .Values.model.image.pullPolicy }}
{{- end }}
{{- end -}}

{{/* The init container that downloads and checks the model's files. */}}
{{- define "spotd.downloadContainer" -}}
- name: download-model
  image: {{ include "spotd.image" . }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [/bin/bash, /etc/spotd/download-model, /models]
  {{- with .Values.model.download.tokenSecret }}
  {{- if .name }}
  env:
    - name: DOWNLOAD_TOKEN
      valueFrom: {secretKeyRef: {name: {{ .name }}, key: {{ .key }}}}
  {{- end }}
  {{- end }}
  volumeMounts:
    - {name: models, mountPath: /models}
    - {name: config, mountPath: /etc/spotd, readOnly: true}
  resources:
    {{- toYaml .Values.model.download.resources | nindent 4 }}
  securityContext:
    {{- toYaml .Values.securityContext | nindent 4 }}
{{- end -}}

{{/* What pods of spotd's image have in common below spec. */}}
{{- define "spotd.podCommon" -}}
serviceAccountName: {{ include "spotd.serviceAccountName" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Where pods that compute may run. */}}
{{- define "spotd.scheduling" -}}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if and .Values.gpu.enabled .Values.gpu.runtimeClassName }}
runtimeClassName: {{ .Values.gpu.runtimeClassName }}
{{- end }}
{{- with .Values.resourceClaims }}
resourceClaims:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $tolerations := concat .Values.tolerations (ternary .Values.gpu.tolerations (list) .Values.gpu.enabled) }}
{{- with $tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Resources of a container that computes, with the servers' GPU: (dict "root" $ "resources" MAP) */}}
{{- define "spotd.resources" -}}
{{- $resources := deepCopy .resources -}}
{{- if .root.Values.gpu.enabled -}}
{{- $_ := set $resources "limits" (merge (dict .root.Values.gpu.resourceName 1) ($resources.limits | default dict)) -}}
{{- end -}}
{{- with .root.Values.resources.claims -}}
{{- $_ := merge $resources (dict "claims" .) -}}
{{- end -}}
{{- toYaml $resources -}}
{{- end -}}

{{/* Prometheus selector of this release's series. */}}
{{- define "spotd.series" -}}
namespace="{{ .Release.Namespace }}",pod=~"{{ include "spotd.fullname" . }}-[0-9]+"
{{- end -}}

{{- define "spotd.tlsSecret" -}}
{{- with .Values.tls -}}
{{- if or .secretName .certManager.enabled -}}
{{- .secretName | default (printf "%s-tls" (include "spotd.fullname" $)) -}}
{{- else -}}
{{- fail "tls.secretName is required with tls.enabled, unless tls.certManager.enabled" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* How kubelets ask for one probe: (dict "root" $ "service" NAME "path" PATH) */}}
{{- define "spotd.probe" -}}
{{- if .root.Values.tls.enabled -}}
httpGet: {path: {{ .path }}, port: metrics}
{{- else -}}
grpc:
  port: 50051
  service: {{ .service | quote }}
{{- end -}}
{{- end -}}
